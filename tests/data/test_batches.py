"""What an epoch draws, how it ends, and that processes change nothing."""

import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.config.augmentation import AugmentConfig, MixConfig
from foveate.config.settings import DataConfig
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.data.order import drawn
from foveate.errors import ConfigError
from foveate.tasks.segmentation import Segmentation

STRONG = AugmentConfig(preset="strong")
MIXED = AugmentConfig(preset="strong", mix=MixConfig(mixup=0.2, cutmix=1))


@pytest.fixture(scope="module")
def digits(digit_folders: Path) -> Manifest:
    return Manifest.from_folder(digit_folders)


@pytest.fixture(scope="module")
def uneven(digits: Manifest) -> Manifest:
    """Fifty of one class, ten of the next, three of the last; weights 1, 2 and 0."""
    rows = np.r_[0:50, 50:60, 100:103]
    weights = np.repeat([1.0, 2.0, 0.0], (50, 10, 3)).astype(np.float32)
    part = digits.take(rows)
    return Manifest(part.table.with_columns(weight=weights), part.root, part.source)


def epoch_of(loader: BatchLoader, epoch: int) -> np.ndarray:
    positions = range(epoch * len(loader), (epoch + 1) * len(loader))
    return np.concatenate([loader.rows_at(position) for position in positions])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(0, 2**31 - 1))
def test_rows_come_as_often_as_expected(shares: list[float], seed: int) -> None:
    weights = np.array(shares)
    if not weights.sum() > 1e-3:
        weights[0] = 1.0
    counts = np.bincount(drawn(weights, np.random.default_rng(seed)), minlength=len(weights))
    expected = weights / weights.sum() * len(weights)
    assert counts.sum() == len(weights)
    assert (np.abs(counts - expected) < 1 + 1e-6).all()
    assert not counts[weights == 0].any()


def test_balanced_draws_each_class_alike(uneven: Manifest) -> None:
    plain = Manifest(uneven.table.drop("weight"), uneven.root, uneven.source)
    loader = BatchLoader(plain, (8, 8), 7, shuffle=True, sampling="balanced")
    labels = plain.table["label"].to_physical().to_numpy()
    for epoch in range(3):
        rows = epoch_of(loader, epoch)
        assert Counter(labels[rows].tolist()) == {0: 21, 1: 21, 2: 21}
    assert (epoch_of(loader, 0) != epoch_of(loader, 1)).any()


def test_weighted_draws_by_weight_and_spends_it(uneven: Manifest) -> None:
    loader = BatchLoader(uneven, (8, 8), 7, shuffle=True, sampling="weighted", augment=MIXED)
    rows = np.concatenate([epoch_of(loader, epoch) for epoch in range(40)])
    # Shares 50 * 1 and 10 * 2 of 70; systematic sampling rounds each epoch's 63 draws.
    assert abs((rows < 50).mean() - 50 / 70) < 1 / 63
    assert not (rows >= 60).any()
    assert len(loader.batch_at(0)) == 2


def test_repeated_rows_are_augmented_anew(uneven: Manifest) -> None:
    loader = BatchLoader(uneven.take([55]), (16, 16), 4, shuffle=True, augment=STRONG, repeat=4)
    images = loader.batch_at(0)[0]["images"]
    assert len(loader) == 1
    assert len({image.tobytes() for image in images}) == 4


def test_repeat_goes_over_all_rows_each_time(digits: Manifest) -> None:
    loader = BatchLoader(digits, (8, 8), 50, shuffle=True, repeat=3)
    rows = epoch_of(loader, 0).reshape(3, 150)
    for part in rows:
        assert sorted(part.tolist()) == list(range(150))
    assert (rows[0] != rows[1]).any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampling": "balanced"}, "shuffle=True"),
        ({"sampling": "weighted", "shuffle": True}, "has none"),
        ({"sampling": "balansed", "shuffle": True}, "'balanced'"),
        ({"remainder": "cut"}, "keep, pad, drop"),
        ({"cycle": 2}, 'remainder="drop"'),
        ({"processes": 2, "unreadable": "skip"}, "loader.processes"),
    ],
)
def test_impossible_wishes(options: dict[str, Any], text: str, digits: Manifest) -> None:
    with pytest.raises(ConfigError, match=text):
        BatchLoader(digits, (8, 8), **options)


def test_padding_weighs_nothing(digits: Manifest) -> None:
    kept = list(BatchLoader(digits, (8, 8), 64))
    loader = BatchLoader(digits, (8, 8), 64, remainder="pad")
    padded = list(loader)
    loader.close()
    assert [len(targets) for _, targets, _ in padded] == [64, 64, 64]
    assert [weights.sum() for *_, weights in padded] == [64, 64, 22]
    for (inputs, targets), (more, longer, weights) in zip(kept, padded, strict=True):
        np.testing.assert_array_equal(more["images"][weights > 0], inputs["images"])
        np.testing.assert_array_equal(longer[weights > 0], targets)


def test_padding_leaves_scores_as_they_are(digits: Manifest) -> None:
    images = keras.Input((8, 8, 3), name="images")
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(images))
    model = keras.Model({"images": images}, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, weighted_metrics=["accuracy"])
    scores = []
    for remainder in ("keep", "pad"):
        loader = BatchLoader(digits, (8, 8), 64, remainder=remainder)
        scores.append(model.evaluate(loader, verbose=0, return_dict=True)["accuracy"])
        loader.close()
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize("augment", [MIXED, None])
def test_processes_give_the_same_bytes(augment: AugmentConfig | None, digits: Manifest) -> None:
    def made(**options: Any) -> list[bytes]:
        loader = BatchLoader(digits, (16, 20), 32, shuffle=True, augment=augment, **options)
        try:
            return [
                array.tobytes()
                for _ in range(2)
                for inputs, labels in loader
                for array in (inputs["images"], labels)
            ]
        finally:
            loader.close()

    assert made(processes=2, threads=2) == made(threads=2)


def test_a_queue_that_shrinks_ends_the_processes(digits: Manifest) -> None:
    def others() -> int:
        return len(multiprocessing.active_children())

    before = others()
    loader = BatchLoader(digits, (16, 16), 32, shuffle=True, augment=MIXED, processes=1)
    for index, (inputs, targets) in enumerate(loader):
        expected = loader[index]
        np.testing.assert_array_equal(inputs["images"], expected[0]["images"])
        np.testing.assert_array_equal(targets, expected[1])
        if index == 1:
            assert others() == before + 1
            assert loader.shrink_queue()
        if index >= 1:
            assert others() == before
            assert not loader.shrink_queue()
        if index == 3:  # the last one moves the epoch, which indexing follows
            break
    loader.close()


def test_processes_encode_masks(mask_folders: Path) -> None:
    manifest = Manifest.from_folder(mask_folders, DataConfig())
    task = Segmentation(["ground", "digit"], (0, 255), None)
    loader = BatchLoader(manifest, (32, 32), 30, encode=task.encode, processes=1)
    threaded = BatchLoader(manifest, (32, 32), 30, encode=task.encode)
    for (_, mine), (_, theirs) in zip(loader, threaded, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    loader.close()
    threaded.close()


def test_an_error_in_a_process_is_ours(digits: Manifest, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "1.png").write_bytes(b"<html>")
    loader = BatchLoader(Manifest.from_folder(tmp_path), (8, 8), 2, processes=1)
    with pytest.raises(Exception, match=r"1\.png must be"):
        next(iter(loader))
    loader.close()


def test_weights_of_zero_alone_are_refused(uneven: Manifest) -> None:
    none = Manifest(
        uneven.table.with_columns(weight=pl.lit(0.0, pl.Float32)), uneven.root, uneven.source
    )
    with pytest.raises(ConfigError, match="above 0"):
        BatchLoader(none, (8, 8), shuffle=True, sampling="weighted")
