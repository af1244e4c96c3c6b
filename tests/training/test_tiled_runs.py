"""Whole small runs on images that are larger than the model's input."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.errors import BudgetError, ConfigError, SampleError
from foveate.evaluation.predict import predict
from foveate.evaluation.scores import evaluate
from foveate.models.build import build_model
from foveate.models.bundle import Bundle, load_bundle, save_bundle
from foveate.report.report import write_report
from foveate.runs import Run
from foveate.training.prepare import prepare
from foveate.training.profile import profile
from foveate.training.recipe import train
from foveate.training.trial_tiles import few_images
from foveate.training.views import cached_bytes, run_files_bytes, settle_views

Config = Callable[..., Any]
SIZES = [(70, 90)] * 6 + [(90, 70)] * 4 + [(24, 60)] * 2


@pytest.fixture(scope="session")
def canvases(mask_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with their masks, pasted into larger images of several sizes."""
    folder = tmp_path_factory.mktemp("data") / "canvases"
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        image = rng.integers(0, 60, (height, width), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        for scene in range(4):
            name = f"{(number * 4 + scene) % 60:02d}.png"
            top, left = rng.integers(0, max(height - 32, 1)), rng.integers(0, width - 32)
            here = np.s_[top : min(top + 32, height), left : left + 32]
            lines = image[here].shape[0]
            image[here] = np.asarray(Image.open(mask_folders / "images" / name))[:lines]
            mask[here] = np.asarray(Image.open(mask_folders / "masks" / name))[:lines]
        Image.fromarray(image).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tile_config(tiny_config: Config) -> Config:
    """Makes settings of a small training in tiles of 32 pixels."""
    return lambda **flags: tiny_config(
        **{
            "data__image_size": "none",
            "data__tiles": 32,
            "data__batch_size": 8,
            "data__splits__validation": 0.2,
            "data__splits__test": 0.2,
            "data__unreadable": "skip",
            "data__max_unreadable": 0.9,
            "recipe__epochs": 3,
            **flags,
        }
    )


@pytest.fixture(scope="session")
def tile_run(canvases: Path, tile_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run in tiles."""
    return train(canvases, tile_config(), tmp_path_factory.mktemp("runs") / "tiles")


def pixels(paths: list[str]) -> int:
    return sum(np.asarray(Image.open(path)).size for path in paths)


def test_it_learns_and_is_judged_on_every_pixel_once(tile_run: Run, canvases: Path) -> None:
    assert max(record["val_mean_iou"] for record in tile_run.history()) > 0.6
    outcome = evaluate(tile_run, "test")
    predictions = pl.read_parquet(tile_run.predictions_path("test"))
    paths = [str(canvases / image) for image in predictions["image"]]
    assert np.sum(outcome["confusion_matrix"]) == pixels(paths)
    assert outcome["num_samples"] == len(paths) == predictions.height
    assert predictions["mean_iou"].is_between(0, 1).all()
    worst = outcome["worst"]
    assert worst == sorted(worst, key=lambda record: record["mean_iou"])
    assert {record["image"] for record in worst} <= set(predictions["image"])
    assert all((tile_run.folder / record["picture"]).exists() for record in worst)
    assert "mean IoU" in write_report(tile_run).read_text(encoding="utf-8")


def test_masks_are_predicted_at_full_resolution(
    tile_run: Run, canvases: Path, tmp_path: Path
) -> None:
    evaluate(tile_run, "test")
    known = pl.read_parquet(tile_run.predictions_path("test"))
    paths = [str(canvases / image) for image in known["image"]]
    predicted = predict(tile_run, paths, masks=tmp_path)
    for path, mask, share in zip(paths, predicted["mask"], predicted["share.255"], strict=True):
        ids = np.asarray(Image.open(mask))
        assert ids.shape == np.asarray(Image.open(path)).shape
        assert (ids == 255).mean() == pytest.approx(share)
    np.testing.assert_allclose(predicted["share.255"], known["share.255"], atol=1e-6)


def per_pixel_bundle(run: Run, folder: Path) -> keras.Model:
    """Put a model that looks at single pixels in the place of a run's own."""
    inputs = keras.Input((32, 32, 3), dtype="uint8", name="images")
    bright = keras.layers.Rescaling(1 / 60, offset=-0.5)(inputs)
    model = keras.Model({"images": inputs}, keras.layers.Conv2D(2, 1)(bright))
    weights = np.array([[1.0, -1.0], [-2.0, 2.0], [0.5, 0.7]], np.float32)
    model.layers[-1].set_weights([weights[None, None], np.array([0.1, -0.1], np.float32)])
    description = load_bundle(run.model_folder).description
    save_bundle(folder / "model", Bundle(model, description))
    for name in ("config.toml", "status.json", "manifest.parquet"):
        (folder / name).write_bytes((run.folder / name).read_bytes())
    return model


def test_tiles_predict_what_the_whole_image_would(
    tile_run: Run, canvases: Path, tmp_path: Path
) -> None:
    model = per_pixel_bundle(tile_run, tmp_path / "run")
    path = canvases / "images" / "00.png"
    image = np.repeat(np.asarray(Image.open(path))[..., None], 3, axis=-1)
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.get_weights())
    logits: NDArray[np.float64] = (image / 60 - 0.5) @ kernel[0, 0] + bias
    masks = tmp_path / "masks"
    predicted = predict(tmp_path / "run", [path], masks=masks)
    found = np.asarray(Image.open(predicted["mask"][0])) == 255
    clear = np.abs(logits[..., 1] - logits[..., 0]) > 1e-4
    assert clear.mean() > 0.9
    assert 0.01 < found.mean() < 0.99
    np.testing.assert_array_equal(found[clear], (logits[..., 1] > logits[..., 0])[clear])


def test_an_image_that_cannot_be_read_is_left_out(
    tile_run: Run, canvases: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(canvases, tmp_path / "data")
    run = Run.open(shutil.copytree(tile_run.folder, tmp_path / "run"))
    manifest = replace(Manifest.load(run.manifest_path), root=data)
    manifest.save(run.manifest_path)
    test = manifest.split("test")
    paths = [test.image_path(row) for row in range(test.num_samples)]
    Path(paths[0]).write_bytes(b"nothing")
    outcome = evaluate(run, "test")
    assert outcome["num_unreadable"] == 1
    assert np.sum(outcome["confusion_matrix"]) == pixels(paths[1:])
    with pytest.raises(SampleError, match=Path(paths[0]).name):
        predict(run, paths, unreadable="fail")
    predicted = predict(run, paths, masks=tmp_path)  # as in training
    assert predicted["problem"].is_null().to_list() == [False] + [True] * (len(paths) - 1)
    assert predicted["mask"].is_null().to_list() == [True] + [False] * (len(paths) - 1)


def test_rows_of_tiles(canvases: Path, tile_config: Config) -> None:
    prepared = prepare(canvases, tile_config())
    assert prepared.image_size == (32, 32)
    tiles = {(70, 90): 9, (90, 70): 9, (24, 60): 2}  # of 32 pixels, without overlap
    for split in ("train", "validation", "test"):
        sizes = prepared.manifest.split(split).table.select("height", "width").rows()
        assert prepared.rows(split).num_samples == sum(tiles[size] for size in sizes)
    assert prepared.num_judged("test") >= prepared.rows("test").num_samples


def test_a_trial_has_tiles_for_whole_batches(canvases: Path, tile_config: Config) -> None:
    """What is measured with a batch of 32 is not that of the 18 tiles of two images."""
    config = tile_config(data__batch_size=32)
    prepared = prepare(canvases, config)
    assert few_images(prepared, 1).loader("train", config).batch_size < 32
    few = few_images(prepared, 32)
    assert few.loader("train", config).batch_size == 32
    assert few.manifest.num_samples < prepared.manifest.num_samples


def test_tiles_may_be_seen_smaller_than_they_are(canvases: Path, tile_config: Config) -> None:
    config = tile_config(data__image_size=16)
    loader = prepare(canvases, config).loader("train", config)
    inputs, masks, _ = loader.batch_at(0)
    assert inputs["images"].shape == (8, 16, 16, 3)
    assert masks.shape == (8, 16, 16)


def test_the_bundle_says_how_images_are_cut(tile_run: Run) -> None:
    said = json.loads((tile_run.model_folder / "bundle.json").read_text())
    assert said["tiles"] == {"size": [32, 32], "overlap": 0.25, "balanced": True}


@pytest.mark.parametrize(
    "flags", [{}, {"loader__cache": "2MiB"}, {"loader__processes": 2}], ids=str
)
def test_the_cache_counts_towards_the_disk(
    flags: dict[str, Any], canvases: Path, tile_config: Config
) -> None:
    def settled(disk: int) -> RunConfig:
        return settle_views(tile_config(budget__disk=disk, **flags), prepared, model)

    prepared = prepare(canvases, tile_config(**flags))
    model = build_model(tile_config().model, prepared.model_inputs, prepared.task)
    with pytest.raises(BudgetError, match=r"model, and what is cached for a while") as caught:
        settled(2**20)
    (least,) = re.findall(r"at least (\d+) MiB", str(caught.value))
    enough = settled(int(least) * 2**20)
    assert run_files_bytes(model) + cached_bytes(enough, prepared) <= int(least) * 2**20
    with pytest.raises(BudgetError, match=rf"at least {least} MiB"):
        settled((int(least) - 1) * 2**20)


def test_what_is_read_whole_from_here_is_not_cached(
    mask_folders: Path, tiny_config: Config
) -> None:
    config = tiny_config(data__image="images", data__mask="masks", budget__disk="1GiB")
    assert cached_bytes(config, prepare(mask_folders, config)) == 0


def test_what_cannot_be_done_is_refused(
    canvases: Path, digit_folders: Path, tile_config: Config
) -> None:
    with pytest.raises(ConfigError, match=r"data\.tiles cuts images with masks, but got"):
        prepare(digit_folders, tile_config())
    with pytest.raises(ConfigError, match=r"profile measures how whole images"):
        profile(canvases, tile_config())
    with pytest.raises(ConfigError, match=r"loader\.cache must hold the largest decoded image"):
        prepare(canvases, tile_config(loader__cache="10KiB"))
