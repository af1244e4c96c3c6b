from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from foveate.config.settings import DataConfig, SplitConfig
from foveate.data.checks import ManifestWarning
from foveate.data.listing import SPLITS
from foveate.data.manifest import Manifest
from foveate.data.splits import assign_splits
from foveate.errors import ManifestError

DEFAULTS = SplitConfig()
EPSILON = 1e-6


def make(
    labels: Sequence[str | int],
    groups: Sequence[str | int] | None = None,
    given_splits: Sequence[str | None] | None = None,
) -> Manifest:
    text = [str(label) for label in labels]
    kind = pl.Enum(sorted(set(text)))
    table = pl.DataFrame(
        {"image": [f"{row}.jpg" for row in range(len(text))], "label": pl.Series(text, dtype=kind)}
    )
    if groups is not None:
        column = pl.Series("group", [str(group) for group in groups], dtype=pl.String)
        table = table.with_columns(column)
    if given_splits is not None:
        table = table.with_columns(pl.Series("split", given_splits, dtype=pl.Enum(SPLITS)))
    return Manifest(table, Path(), "table.csv")


def quiet(
    manifest: Manifest, config: SplitConfig = DEFAULTS, seed: int = 0, **more: np.ndarray
) -> Manifest:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ManifestWarning)
        return assign_splits(manifest, config, seed, **more)


def split_list(manifest: Manifest) -> list[str]:
    return list(manifest.table["split"])


def class_counts(manifest: Manifest, column: str = "label") -> dict[str, dict[str, int]]:
    counts = manifest.table.group_by(column, "split").len()
    result = {name: dict.fromkeys(SPLITS, 0) for name in counts[column].cast(pl.String)}
    for name, split, count in counts.iter_rows():
        result[name][split] = count
    return result


label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=120)
share_pairs = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))
fast = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)


def try_splits(manifest: Manifest, config: SplitConfig, seed: int) -> Manifest:
    try:
        return quiet(manifest, config, seed)
    except ManifestError:
        assume(False)
        raise


class TestByClass:
    def test_hundred_of_each_class(self) -> None:
        counts = class_counts(quiet(make(["a", "b"] * 100)))
        assert counts == {name: dict(zip(SPLITS, (80, 10, 10), strict=True)) for name in "ab"}

    def test_small_classes_add_up(self) -> None:
        # Each class of 5 owes half a row to validation and to test: 20 classes owe 10 to each.
        manifest = quiet(make([row // 5 for row in range(100)]))
        assert split_list(manifest).count("validation") == 10
        assert split_list(manifest).count("test") == 10

    @given(labels=label_lists, shares=share_pairs, seed=st.integers(0, 2**31 - 1))
    @fast
    def test_each_class_is_within_one_of_its_share(
        self, labels: list[int], shares: tuple[float, float], seed: int
    ) -> None:
        config = SplitConfig(validation=shares[0], test=shares[1])
        manifest = try_splits(make(labels), config, seed)
        due = dict(zip(SPLITS, (1 - sum(shares), *shares), strict=True))
        for counts in class_counts(manifest).values():
            size = sum(counts.values())
            assert counts["train"] >= 1
            for split, count in counts.items():
                assert abs(count - due[split] * size) < 1 + EPSILON

    @given(labels=label_lists, seed=st.integers(0, 2**31 - 1))
    @fast
    def test_every_row_has_one_split_and_the_seed_decides(
        self, labels: list[int], seed: int
    ) -> None:
        manifest = make(labels)
        divided = try_splits(manifest, DEFAULTS, seed)
        parts = pl.concat([divided.split(name).table["image"] for name in SPLITS])
        assert sorted(parts) == sorted(manifest.table["image"])
        assert split_list(quiet(manifest, seed=seed)) == split_list(divided)

    def test_seeds_differ(self) -> None:
        manifest = make(["a", "b"] * 50)
        assert split_list(quiet(manifest, seed=0)) != split_list(quiet(manifest, seed=1))

    def test_strata_go_before_labels(self) -> None:
        manifest = make(["a", "b"] * 50)
        strata = np.repeat(np.arange(5), 20)
        divided = quiet(manifest, strata=strata)
        frame = divided.table.with_columns(pl.Series("strata", strata))
        counts = frame.filter(pl.col("split") == "test").group_by("strata").len()
        assert counts["len"].to_list() == [2] * 5

    def test_no_labels_at_all(self) -> None:
        manifest = make(["a"] * 20)
        plain = Manifest(manifest.table.drop("label"), manifest.root, manifest.source)
        assert split_list(quiet(plain)).count("test") == 2

    def test_one_sample_of_a_class_trains(self) -> None:
        with pytest.warns(ManifestWarning, match="with one sample .*: 'rare'") as caught:
            manifest = assign_splits(make(["a"] * 30 + ["rare"]), DEFAULTS, 0)
        assert caught[0].filename == __file__
        assert split_list(manifest)[-1] == "train"

    def test_a_share_of_nothing(self) -> None:
        config = SplitConfig(validation=0.0, test=0.0)
        assert set(split_list(quiet(make(["a", "b"]), config))) == {"train"}

    def test_tiny_data_still_fills_every_split(self) -> None:
        for sizes in ((3, 3), (2, 1, 1, 2), (2, 2)):
            labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
            assert set(split_list(quiet(make(labels)))) == set(SPLITS)

    def test_impossible(self) -> None:
        with pytest.raises(ManifestError, match=r"none for validation \(0\.1 .*, test .* 2 rows"):
            quiet(make(["a", "b"]))


class TestGiven:
    def test_all_given_is_kept(self) -> None:
        splits = ["train", "validation", "test", "train"]
        assert split_list(quiet(make("abab", given_splits=splits))) == splits

    def test_validation_is_carved_out_of_train(self) -> None:
        splits = ["train"] * 100 + ["test"] * 40
        divided = split_list(quiet(make(["a", "b"] * 70, given_splits=splits)))
        assert divided[100:] == ["test"] * 40
        assert divided[:100].count("validation") == 10
        assert divided[:100].count("train") == 90

    def test_rows_without_a_split_are_divided(self) -> None:
        splits = ["test"] * 10 + ["train"] * 10 + [None] * 20
        divided = split_list(quiet(make(["a"] * 40, given_splits=splits)))
        assert divided[:20] == splits[:20]
        assert sorted(divided[20:]) == ["train"] * 18 + ["validation"] * 2

    def test_nothing_left_to_train(self) -> None:
        splits = ["validation", "test"]
        with pytest.raises(ManifestError, match="none for train"):
            quiet(make("ab", given_splits=splits))

    def test_groups_follow_their_given_split(self) -> None:
        groups = ["p"] * 3 + [f"q{row}" for row in range(30)]
        splits = ["test", None, None] + [None] * 30
        divided = split_list(quiet(make(["a"] * 33, groups, splits)))
        assert divided[:3] == ["test"] * 3
        assert "test" not in divided[3:]

    def test_a_group_in_two_given_splits(self) -> None:
        groups = ["p", "p", "q", "q"]
        splits = ["train", "test", "train", "train"]
        with pytest.raises(
            ManifestError, match=r"table.csv.* one split, but got several for 'p'$"
        ):
            quiet(make("abab", groups, splits))


class TestByGroup:
    @given(
        rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 25)), min_size=1, max_size=150),
        seed=st.integers(0, 2**31 - 1),
    )
    @fast
    def test_groups_are_never_divided(self, rows: list[tuple[int, int]], seed: int) -> None:
        labels, groups = zip(*rows, strict=True)
        manifest = make(labels, groups)
        divided = try_splits(manifest, DEFAULTS, seed)
        assert divided.table.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
        assert set(split_list(divided)) == set(SPLITS)
        assert all(counts["train"] for counts in class_counts(divided).values())
        assert split_list(quiet(manifest, seed=seed)) == split_list(divided)

    def test_close_to_the_shares(self) -> None:
        rng = np.random.default_rng(3)
        sizes = rng.integers(1, 9, 300)
        groups = np.repeat(np.arange(300), sizes)
        labels = np.repeat(rng.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05]), sizes)
        for counts in class_counts(quiet(make(labels.tolist(), groups.tolist()))).values():
            size = sum(counts.values())
            # No group has more than 8 rows, so no class needs to be further off than one group.
            assert abs(counts["validation"] - 0.1 * size) <= 8
            assert abs(counts["test"] - 0.1 * size) <= 8

    def test_small_classes_add_up(self) -> None:
        labels = [row // 3 for row in range(300)]
        divided = split_list(quiet(make(labels, list(range(300)))))
        # A class's third row costs 0.31 in a split where 0.3 is due and 0.06 in train, where 0.4
        # is still needed; a split that needs n of its 30 in all repays 2 n / 31: so n is about 4.
        assert abs(divided.count("validation") - 30) <= 5
        assert abs(divided.count("test") - 30) <= 5

    def test_as_many_groups_as_splits(self) -> None:
        divided = quiet(make(["a", "b"] * 15, [row // 10 for row in range(30)]))
        assert set(split_list(divided)) == set(SPLITS)

    def test_fewer_groups_than_splits(self) -> None:
        with pytest.raises(
            ManifestError, match=r"none for .* 10 rows in 2 groups, which are never"
        ):
            quiet(make(["a", "b"] * 5, [row % 2 for row in range(10)]))

    def test_a_class_in_one_group_trains(self) -> None:
        labels = ["a"] * 40 + ["rare"] * 4
        groups = [*range(40), *["z"] * 4]
        with pytest.warns(ManifestWarning, match="with one group .*: 'rare'"):
            divided = assign_splits(make(labels, groups), DEFAULTS, 0)
        assert set(split_list(divided)[40:]) == {"train"}


class TestGivenTrain:
    """Rows that were stated to train may become others; whoever stated it is told."""

    def test_a_test_split_taken_from_train_is_told(self) -> None:
        manifest = make(["a", "b"] * 20, given_splits=["train"] * 32 + ["validation"] * 8)
        with pytest.warns(
            ManifestWarning, match=r"10% of the train rows .* data\.splits\.test to 0"
        ):
            divided = assign_splits(manifest, SplitConfig(), 0)
        assert divided.split("test").num_samples == 3
        kept = assign_splits(manifest, SplitConfig(test=0.0), 0)
        assert kept.split("train").num_samples == 32

    def test_validating_on_some_of_train_is_usual(self) -> None:
        manifest = make(["a", "b"] * 20, given_splits=["train"] * 32 + ["test"] * 8)
        assert assign_splits(manifest, SplitConfig(), 0).split("validation").num_samples == 3

    def test_an_empty_split_names_its_setting(self) -> None:
        with pytest.raises(ManifestError, match=r"set data\.splits\.validation to 0"):
            quiet(make(["a", "b"]), SplitConfig(test=0.0), 0)


class TestRepeatedImages:
    """Rows of one image never lie in two splits: the model would be judged on what it saw."""

    @pytest.fixture
    def table(self, tmp_path: Path) -> pl.DataFrame:
        names = [f"{number}.png" for number in range(20)]
        for name in names:
            (tmp_path / name).touch()
        labels = ["a", "b"] * 10
        return pl.DataFrame(
            {"image": [f"{tmp_path}/{name}" for name in names] * 2, "label": labels * 2}
        )

    def test_kept_together(self, table: pl.DataFrame) -> None:
        divided = quiet(Manifest.from_table(table), SplitConfig(), 0).table
        assert divided.group_by("image").agg(pl.col("split").n_unique())["split"].max() == 1
        assert divided["split"].n_unique() == 3

    def test_groups_that_share_an_image_are_one(self, table: pl.DataFrame) -> None:
        groups = pl.Series("person", [number // 2 for number in range(40)])
        config = DataConfig(group="person")
        manifest = Manifest.from_table(table.with_columns(groups), config)
        divided = quiet(manifest, SplitConfig(), 0).table
        for column in ("image", "group"):
            assert divided.group_by(column).agg(pl.col("split").n_unique())["split"].max() == 1

    def test_refused_in_two_given_splits(self, table: pl.DataFrame) -> None:
        parts = pl.Series("part", ["train"] * 20 + ["test"] * 20)
        manifest = Manifest.from_table(table.with_columns(parts), DataConfig(split="part"))
        with pytest.raises(ManifestError, match="rows of one image"):
            assign_splits(manifest, SplitConfig(), 0)
