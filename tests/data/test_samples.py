from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.data.manifest import Manifest
from foveate.data.samples import label_ids, random_generator, sample_numbers
from foveate.tasks.classification import Classification


def labelled(labels: list[str], names: list[str]) -> Manifest:
    table = pl.DataFrame({"image": [f"{row}.jpg" for row in range(len(labels))]})
    label = pl.Series("label", labels, dtype=pl.Enum(names))
    return Manifest(table.with_columns(label), Path(), "test")


def test_label_ids_are_places_among_the_class_names() -> None:
    manifest = labelled(["dog", "cat", "dog", "eel"], ["ant", "cat", "dog", "eel"])
    np.testing.assert_array_equal(label_ids(manifest), [2, 1, 2, 3])
    assert label_ids(manifest).dtype == np.int32


def test_label_ids_are_the_tasks() -> None:
    """A task knows its own order, and not the classes of which there is no row."""
    manifest = labelled(["dog", "cat", "dog"], ["ant", "cat", "dog"])
    np.testing.assert_array_equal(
        label_ids(manifest, Classification(["dog", "cat"]).encode), [0, 1, 0]
    )


def test_each_label_is_encoded_once() -> None:
    seen: list[str] = []

    def encode(labels: list[str]) -> np.ndarray:
        seen.extend(labels)
        return np.arange(len(labels), dtype=np.int32)

    label_ids(labelled(["dog", "cat"] * 500, ["cat", "dog"]), encode)
    assert sorted(seen) == ["cat", "dog"]


@settings(max_examples=60)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 40))
def test_numbers_belong_to_a_place_wherever_it_is_counted_from(
    seed: int, epoch: int, first: int
) -> None:
    together = sample_numbers(seed, epoch, first, 5)
    alone = [sample_numbers(seed, epoch, first + place, 1)[0] for place in range(5)]
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together)) == together.size
    for other in (
        sample_numbers(seed ^ 1, epoch, first, 5),
        sample_numbers(seed, epoch ^ 1, first, 5),
        random_generator(seed, epoch, 0, 1).random(together.shape),
    ):
        assert not np.isin(together, other).any()
