import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DataConfig
from foveate.data.ahead import ReadAhead
from foveate.data.batches import Batch, Batches
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED
from foveate.data.metadata import fit_schema
from foveate.errors import ManifestError, SampleError
from foveate.tasks import base

STRONG = AugmentConfig(preset="strong")


@pytest.fixture(scope="module")
def digits(digit_folders: Path) -> Manifest:
    return Manifest.from_folder(digit_folders)


def all_bytes(loader: BatchLoader, epochs: int = 2) -> bytes:
    parts = []
    for _ in range(epochs):
        for inputs, targets in loader:
            parts += [inputs["images"].tobytes(), targets.tobytes()]
    loader.close()
    return b"".join(parts)


def test_same_bytes_for_any_number_of_threads(digits: Manifest) -> None:
    made = {
        threads: all_bytes(
            BatchLoader(digits, (16, 20), 32, shuffle=True, augment=STRONG, threads=threads)
        )
        for threads in (1, 2, 8)
    }
    assert made[1] == made[2] == made[8]


def test_same_bytes_for_any_queue(digits: Manifest) -> None:
    small = BatchLoader(digits, (16, 16), 32, shuffle=True, augment=STRONG, queue_bytes=1)
    large = BatchLoader(digits, (16, 16), 32, shuffle=True, augment=STRONG)
    assert all_bytes(small) == all_bytes(large)


def test_same_bytes_when_another_thread_shrinks_the_queue(digits: Manifest) -> None:
    steady = BatchLoader(digits, (16, 16), 32, shuffle=True, augment=STRONG)
    loader = BatchLoader(digits, (16, 16), 32, shuffle=True, augment=STRONG)
    parts, answers = [], []
    with ThreadPoolExecutor(1) as pool:
        for number, (inputs, targets) in enumerate(chain(loader, loader)):
            parts += [inputs["images"].tobytes(), targets.tobytes()]
            if number in (2, len(loader) + 2):
                answers.append(pool.submit(loader.shrink_queue))
    loader.close()
    assert [answer.result() for answer in answers] == [True, False]
    assert b"".join(parts) == all_bytes(steady)


class Computed(Batches):
    """Notes what is computed, and when it is as much as a queue of four holds."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.full = threading.Event()

    def at(self, position: int) -> Batch:
        self.positions.append(position)
        if len(self.positions) == 5:
            self.full.set()
        return (position,)


def test_a_shrunk_queue_holds_one_batch() -> None:
    computed = Computed()
    ahead = ReadAhead(computed, threads=2, processes=0, most=4)
    assert ahead.take(0) == (0,)
    assert computed.full.wait(60)
    assert sorted(computed.positions) == [0, 1, 2, 3, 4]
    computed.positions.clear()
    assert ahead.shrink()
    assert not ahead.shrink()
    assert [ahead.take(position) for position in (1, 2)] == [(1,), (2,)]
    assert set(computed.positions) <= {1, 2, 3}
    ahead.close()


def test_nothing_is_read_beyond_what_is_read_in_one_go() -> None:
    computed = Computed()
    ahead = ReadAhead(computed, threads=2, processes=0, most=4, stretch=3)
    assert [ahead.take(position) for position in (0, 1, 2)] == [(0,), (1,), (2,)]
    assert not computed.full.wait(0.5)
    assert sorted(computed.positions) == [0, 1, 2]
    assert [ahead.take(position) for position in (3, 7)] == [(3,), (7,)]
    assert not {6, 9} & set(computed.positions)
    ahead.close()


@pytest.mark.parametrize("processes", [0, 2])
def test_same_bytes_where_epochs_are_read_one_by_one(digits: Manifest, processes: int) -> None:
    steady = BatchLoader(digits, (16, 16), 32, shuffle=True, augment=STRONG)
    halting = BatchLoader(
        digits, (16, 16), 32, shuffle=True, augment=STRONG, processes=processes, epochs=1
    )
    for loader in (steady, halting):
        loader.resume_at(2)
    assert all_bytes(halting) == all_bytes(steady)


def test_seed_and_epoch_change_what_is_seen(digits: Manifest) -> None:
    loader = BatchLoader(digits, (16, 16), 150, shuffle=True, augment=STRONG, seed=0)
    other = BatchLoader(digits, (16, 16), 150, shuffle=True, augment=STRONG, seed=1)
    first, second = loader.rows_at(0), loader.rows_at(1)
    assert sorted(first) == sorted(second) == list(range(150))
    assert (first != second).any()
    assert (first != other.rows_at(0)).any()
    row = int(first[0])
    place = int(np.flatnonzero(second == row)[0])
    images = loader.batch_at(0)[0]["images"][0], loader.batch_at(1)[0]["images"][place]
    assert (images[0] != images[1]).any()


def test_shuffle_is_over_the_whole_split(digits: Manifest) -> None:
    """Rows of a far end come early: no window of the file order survives."""
    loader = BatchLoader(digits, (8, 8), 15, shuffle=True)
    halves = [(loader.rows_at(position) >= 75).mean() for position in range(100)]
    assert 0.4 < np.mean(halves) < 0.6
    assert min(halves) > 0.0


def test_without_augmentation_images_are_the_files(digits: Manifest) -> None:
    loader = BatchLoader(digits, (8, 8), 64)
    row = 0
    for inputs, labels in loader:
        for image, label in zip(inputs["images"], labels, strict=True):
            stored = np.asarray(Image.open(digits.image_path(row)).convert("RGB"))
            np.testing.assert_array_equal(image, stored)
            assert digits.class_names[label] == Path(digits.image_path(row)).parent.name
            row += 1
    assert row == digits.num_samples


def test_lengths(digits: Manifest) -> None:
    assert len(BatchLoader(digits, (8, 8), 32)) == 5
    assert [len(batch[1]) for batch in BatchLoader(digits, (8, 8), 64)] == [64, 64, 22]
    assert len(BatchLoader(digits, (8, 8), 32, remainder="drop")) == 4
    assert len(BatchLoader(digits, (8, 8), 32, remainder="drop", cycle=3)) == 3


def test_few_rows_make_smaller_batches_not_empty_epochs(digits: Manifest) -> None:
    few = digits.take(range(5))
    loader = BatchLoader(few, (8, 8), 32, remainder="drop", cycle=2)
    assert (len(loader), loader.batch_size) == (2, 2)
    assert [len(batch[1]) for batch in loader] == [2, 2]


def test_giving_up_half_way_starts_the_epoch_anew(digits: Manifest) -> None:
    loader = BatchLoader(digits, (8, 8), 32, shuffle=True)
    first = next(iter(loader))[1]
    again = [batch[1] for batch in loader]
    np.testing.assert_array_equal(first, again[0])
    assert loader.epoch == 1
    loader.epoch = 0
    np.testing.assert_array_equal(next(iter(loader))[1], first)
    loader.close()


def test_indexing_gives_the_same_batches(digits: Manifest) -> None:
    loader = BatchLoader(digits, (8, 8), 32, shuffle=True, augment=STRONG)
    indexed = [loader[index][0]["images"] for index in range(len(loader))]
    for expected, (inputs, _) in zip(indexed, loader, strict=True):
        np.testing.assert_array_equal(expected, inputs["images"])
    with pytest.raises(IndexError):
        loader[len(loader)]


def test_metadata_and_weights(digit_table: Path) -> None:
    config = DataConfig(metadata=("ink", "shade"))
    table = Manifest.from_table(digit_table, config)
    weights = np.linspace(0, 1, table.num_samples, dtype=np.float32)
    weighted = Manifest(
        table.table.with_columns(pl.Series("weight", weights)), table.root, table.source
    )
    schema = fit_schema(table, config.columns)
    loader = BatchLoader(weighted, (8, 8), 32, shuffle=True, metadata=schema)
    inputs, labels, sample_weight = loader[0]
    rows = loader.rows_at(0)
    numeric, categories = schema.arrays(table)
    np.testing.assert_array_equal(inputs["numeric"], numeric[rows])
    np.testing.assert_array_equal(inputs["categories"], categories[rows])
    np.testing.assert_array_equal(sample_weight, weights[rows])
    assert (labels.dtype, inputs["numeric"].dtype) == (np.int32, np.float32)


def test_masks_move_with_their_images(mask_folders: Path) -> None:
    """Ink is bright on dark gravel, so a moved mask still tells bright from dark."""
    manifest = Manifest.from_folder(mask_folders)
    augment = AugmentConfig.model_validate(
        {"preset": "none", "geometry": {"rotation": 40, "shift": 0.2, "horizontal_flip": 0.5}}
    )
    loader = BatchLoader(manifest, (32, 32), 30, shuffle=True, augment=augment)
    for inputs, masks in loader:
        assert masks.shape == (30, 32, 32)
        assert set(np.unique(masks)) == {0, 255}
        grey = inputs["images"].mean(-1)
        assert grey[masks == 255].mean() > grey[masks == 0].mean() + 80


def test_mask_weights_have_a_shape_that_cannot_be_mistaken(mask_folders: Path) -> None:
    manifest = Manifest.from_folder(mask_folders)
    table = manifest.table.with_columns(pl.lit(0.5, pl.Float32).alias("weight"))
    weighted = Manifest(table, manifest.root, manifest.source)
    assert BatchLoader(weighted, (32, 32), 4)[0][2].shape == (4, 1, 1)


def test_mixing_gives_probabilities(digits: Manifest) -> None:
    augment = AugmentConfig.model_validate({"preset": "none", "mix": {"mixup": 0.4, "cutmix": 1}})
    loader = BatchLoader(digits, (16, 16), 32, shuffle=True, augment=augment)
    kinds = set()
    for inputs, targets in loader:
        assert targets.shape == (len(inputs["images"]), 3)
        np.testing.assert_allclose(targets.sum(-1), 1.0, atol=1e-6)
        kinds.add(bool((targets.max(-1) < 1).any()))
    assert True in kinds


def test_a_broken_file_is_named(digits: Manifest, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"<html>not an image</html>")
    table = pl.DataFrame({"image": [digits.image_path(0), str(broken)]})
    loader = BatchLoader(Manifest(table, tmp_path, "test"), (8, 8), 2)
    with pytest.raises(SampleError, match=r"broken\.png"):
        next(iter(loader))
    loader.close()


def test_unknown_mask_values_name_the_mask(mask_folders: Path) -> None:
    from foveate.tasks.segmentation import Segmentation

    manifest = Manifest.from_folder(mask_folders)
    loader = BatchLoader(manifest, (32, 32), 4, encode=Segmentation(["0", "1"], [0, 1]).encode)
    with pytest.raises(SampleError, match=r"00\.png.*255"):
        loader[0]


def test_no_rows(digits: Manifest) -> None:
    with pytest.raises(ManifestError, match="needs rows"):
        BatchLoader(digits.take([]), (8, 8))


def test_images_alone_have_no_targets(digits: Manifest, tmp_path: Path) -> None:
    table = pl.DataFrame({"image": [digits.image_path(row) for row in range(3)]})
    batch = BatchLoader(Manifest(table, tmp_path, "test"), (8, 8), 2)[0]
    assert len(batch) == 1
    assert batch[0]["images"].shape == (2, 8, 8, 3)


def test_the_mark_for_ignored_pixels_is_the_tasks() -> None:
    """Rooms that do not see each other agree on it."""
    assert IGNORED == base.IGNORED


def test_waiting_is_measured(digits: Manifest, tiny_config: Callable[..., Any]) -> None:
    loader = BatchLoader(digits, (8, 8), 32)
    list(loader)
    assert loader.wait_seconds > 0
    loader.close()
