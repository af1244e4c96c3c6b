"""Samples that cannot be read: skipped, counted, never silently."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
from PIL import Image

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DecodeConfig
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED, scan_masks
from foveate.data.unreadable import Unreadable
from foveate.errors import ConfigError, ManifestError, SampleError
from foveate.tasks.classification import Classification
from foveate.tasks.losses import CrossEntropyLoss

SIDE = 6


@pytest.fixture
def photos(tmp_path: Path) -> Manifest:
    """Twenty plain images in two classes; each shows its number. Those of BROKEN are none."""
    for number in range(20):
        folder = tmp_path / "photos" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((SIDE, SIDE, 3), number + 1, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return Manifest.from_folder(tmp_path / "photos")


def break_rows(manifest: Manifest, *rows: int) -> list[str]:
    paths = [str(manifest.image_path(row)) for row in rows]
    for path in paths:
        Path(path).write_bytes(b"<html>")
    return paths


def loader(manifest: Manifest, **options: Any) -> BatchLoader:
    options = {"unreadable": "skip", "max_unreadable": 0.2, **options}
    return BatchLoader(manifest, (SIDE, SIDE), 8, **options)


def test_a_gap_is_black_and_weighs_nothing(photos: Manifest) -> None:
    broken = break_rows(photos, 3, 12)
    whole = BatchLoader(photos.take([row for row in range(20) if row not in (3, 12)]), (6, 6), 18)
    feed = loader(photos)
    batches = list(feed)
    images = np.concatenate([inputs["images"] for inputs, _, _ in batches])
    labels = np.concatenate([labels for _, labels, _ in batches])
    weights = np.concatenate([weights for _, _, weights in batches])
    assert [len(batch) for batch in batches] == [3, 3, 3]
    assert np.flatnonzero(weights == 0).tolist() == [3, 12]
    assert not images[[3, 12]].any()
    np.testing.assert_array_equal(images[weights > 0], whole[0][0]["images"])
    np.testing.assert_array_equal(labels[weights > 0], whole[0][1])
    assert feed.skipped(np.arange(20)).nonzero()[0].tolist() == [3, 12]
    assert sorted(feed.unreadable) == sorted(broken)
    assert all(reason.startswith(path) for path, reason in feed.unreadable.items())


def test_a_row_counts_once_however_often_it_is_read(photos: Manifest) -> None:
    break_rows(photos, 0, 1, 2, 3)
    feed = loader(photos, shuffle=True)
    for _ in range(3):
        list(feed)
    assert len(feed.unreadable) == 4
    feed.close()


def test_too_many_stop(photos: Manifest) -> None:
    break_rows(photos, *range(5))
    feed = loader(photos)
    with pytest.raises(SampleError, match=r"(?s)0\.2 of.*5 of 20.*max_unreadable") as caught:
        list(feed)
    assert str(caught.value).count("<html>") == 5
    assert isinstance(feed.failure, SampleError)
    feed.close()


def test_none_left_stops_whatever_is_allowed(photos: Manifest) -> None:
    break_rows(photos, *range(20))
    with pytest.raises(SampleError, match=r"(?s)never all.*20 of 20.*\n- \.\.\."):
        list(loader(photos, max_unreadable=1.0, threads=1))


def test_the_default_stops_at_the_first(photos: Manifest) -> None:
    (broken,) = break_rows(photos, 7)
    with pytest.raises(SampleError, match=broken):
        list(BatchLoader(photos, (SIDE, SIDE), 8))
    with pytest.raises(ConfigError, match=r"fail, skip, but got 'skp'.*'skip'"):
        loader(photos, unreadable="skp")


def test_the_weights_of_the_manifest_stay(photos: Manifest) -> None:
    break_rows(photos, 1)
    table = photos.table.with_columns(weight=pl.lit(2.5, pl.Float32))
    weighted = Manifest(table, photos.root, photos.source)
    assert loader(weighted)[0][2].tolist() == [2.5, 0.0] + [2.5] * 6


def test_nothing_is_blended_with_a_gap(photos: Manifest) -> None:
    break_rows(photos, 0)
    augment = AugmentConfig.model_validate({"preset": "none", "mix": {"mixup": 5.0}})
    feed = loader(photos, augment=augment)
    (inputs, targets, weights), (_, mixed, ones) = feed[0], feed[1]
    assert np.isin(targets, (0, 1)).all()
    assert inputs["images"][:, 0, 0, 0].tolist()[0] == 0
    assert weights.tolist() == [0.0] + [1.0] * 7
    assert not np.isin(mixed, (0, 1)).all()
    assert ones.all()


def test_images_without_targets(photos: Manifest) -> None:
    break_rows(photos, 2)
    images = Manifest(photos.table.select("image"), photos.root, photos.source)
    feed = loader(images)
    (inputs,) = feed[0]
    assert not inputs["images"][2].any()
    assert feed.skipped(np.array([1, 2, 3])).tolist() == [False, True, False]


def test_files_that_break_and_heal_while_reading(photos: Manifest) -> None:
    path = Path(str(photos.image_path(0)))
    whole = path.read_bytes()
    feed = loader(photos)
    Image.new("RGB", (31, 9), (9, 9, 9)).save(path)  # another size is no problem
    assert (feed[0][0]["images"][0] == 9).all()
    path.unlink()
    assert feed[0][2][0] == 0
    path.write_bytes(whole)
    assert feed[0][2][0] == 1
    assert len(feed.unreadable) == 1


@pytest.mark.parametrize("broken", ["images", "masks"])
def test_masks(mask_folders: Path, tmp_path: Path, broken: str) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in sorted((mask_folders / kind).iterdir())[:6]:
            (tmp_path / kind / path.name).write_bytes(path.read_bytes())
    (tmp_path / broken / "02.png").write_bytes(b"")
    manifest = Manifest.from_folder(tmp_path)
    feed = loader(manifest)
    inputs, masks, weights = feed[0]
    assert weights.shape == (6, 1, 1)
    assert weights.ravel().tolist() == [1, 1, 0, 1, 1, 1]
    assert (masks[2] == IGNORED).all()
    assert not inputs["images"][2].any()
    assert "02.png" in next(iter(feed.unreadable.values()))
    scan = scan_masks(manifest, DecodeConfig(), 2, max_unreadable=0.2)
    assert scan.values == (0, 255)
    assert scan.pixels[2].tolist() == [0, 0]
    assert len(scan.strata()) == 6
    with pytest.raises(ManifestError, match=r"1 of 6 are not"):
        scan_masks(manifest, DecodeConfig(), 2, max_unreadable=0.1)


def test_threads_may_share_the_count() -> None:
    noted = Unreadable("skip", 1.0, 1000, "test")
    with ThreadPoolExecutor(8) as pool:
        for row in range(500):
            pool.submit(noted.add, row, f"{row}.png", SampleError("broken"))
    assert noted.among(np.arange(1000)).sum() == len(noted.reasons) == 500


def test_loss_and_metrics_are_those_of_the_readable(photos: Manifest) -> None:
    """What Keras reports equals what NumPy computes from the samples that are there."""
    break_rows(photos, 3, 12, 17)
    feed = loader(photos, max_unreadable=0.5)
    keras.utils.set_random_seed(0)
    scaled = keras.Sequential([keras.layers.Rescaling(0.05), keras.layers.Flatten(),
                               keras.layers.Dense(2)])  # fmt: skip
    images = keras.Input((SIDE, SIDE, 3), name="images")
    model = keras.Model({"images": images}, scaled(images))
    loss = CrossEntropyLoss()
    loss.reduction = "mean_with_sample_weight"
    model.compile(loss=loss, weighted_metrics=Classification(["a", "b"]).metrics())
    batches = [feed.batch_at(position) for position in range(3)]
    losses, right = [], []
    for inputs, labels, weights in batches:
        there = weights > 0
        logits = np.asarray(model(inputs))[there].astype(np.float64)
        labels = labels[there]
        chosen = logits[np.arange(len(labels)), labels]
        losses.append((np.log(np.exp(logits).sum(-1)) - chosen).mean())
        right += (logits.argmax(-1) == labels).tolist()
    told = model.evaluate(feed, verbose=0, return_dict=True)
    assert told["accuracy"] == pytest.approx(np.mean(right))
    # Keras averages the losses of batches by their sizes, gaps included.
    assert told["loss"] == pytest.approx(np.average(losses, weights=[8, 8, 4]), rel=1e-5)
    feed.close()


def test_weights_say_what_counts_not_how_much() -> None:
    (metric,) = Classification(["a", "b"]).metrics()
    logits = np.array([[1.0, 0.0]] * 4)
    metric.update_state(np.array([0, 1, 0, 0]), logits, np.array([0.1, 5.0, 0.0, 2.0]))
    assert float(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(np.array([1]), logits[:1])
    assert float(metric.result()) == pytest.approx(2 / 4)
