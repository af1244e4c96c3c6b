from pathlib import Path

import numpy as np
import polars as pl

from foveate.data.manifest import Manifest
from foveate.data.samples import label_ids
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
