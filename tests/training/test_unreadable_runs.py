"""Whole trainings on data with broken files."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from foveate import cli
from foveate.data.manifest import Manifest
from foveate.errors import ManifestError, SampleError
from foveate.evaluation.predict import predict
from foveate.evaluation.scores import evaluate
from foveate.report.report import write_report
from foveate.runs import Run
from foveate.training.prepare import prepare
from foveate.training.recipe import train

Config = Callable[..., Any]


@pytest.fixture(scope="module")
def digits(digit_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The digits with three broken files, one in each split, and one digit in 25 of them."""
    folder = tmp_path_factory.mktemp("broken") / "digits"
    shutil.copytree(digit_folders, folder, ignore=shutil.ignore_patterns("*.csv"))
    manifest = Manifest.from_folder(folder)
    codes = np.resize([0, 0, 0, 1, 2], manifest.num_samples)
    for row in (5, 53, 104):
        Path(str(manifest.image_path(row))).write_bytes(b"<html>")
    return manifest.with_splits(codes)


@pytest.fixture(scope="module")
def run(
    digits: Manifest, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, str]:
    """A run that skipped them, and what it told."""
    told = io.StringIO()
    config = tiny_config(
        data__unreadable="skip", data__max_unreadable=0.04, augment__mix__mixup=0.2
    )
    folder = tmp_path_factory.mktemp("runs") / "skipping"
    return train(digits, config, folder, Console(file=told, width=80)), told.getvalue()


def test_a_run_goes_on_without_them(run: tuple[Run, str]) -> None:
    opened, told = run
    assert opened.status()["state"] == "finished"
    assert all(np.isfinite(record["val_loss"]) for record in opened.history())
    listed = opened.unreadable()
    names = {split: [Path(path).name for path in files] for split, files in listed.items()}
    assert names["train"] == ["005.png"]
    assert names["validation"] == ["003.png"]
    assert "begins with b'<html>'" in next(iter(listed["train"].values()))
    assert told.count("could not be read") == 2  # once a split
    assert "1 of 90 train files could not be read and are left out" in told
    assert "unreadable.json" in told


def test_scores_leave_them_out(run: tuple[Run, str], digits: Manifest) -> None:
    opened, _ = run
    outcome = evaluate(opened, "test")
    stored = json.loads(opened.evaluation_path("test").read_text())
    assert (stored["num_samples"], stored["num_unreadable"]) == (29, 1)
    assert np.sum(stored["confusion_matrix"]) == 29
    predictions = pl.read_parquet(opened.predictions_path("test"))
    rows = digits.split("test").table
    broken = Path(next(iter(opened.unreadable()["test"]))).relative_to(digits.root).as_posix()
    assert predictions["image"].to_list() == [name for name in rows["image"] if name != broken]
    right = (predictions["label"] == predictions["predicted"]).mean()
    assert right == pytest.approx(outcome["scores"]["accuracy"])
    assert "Files that could not be read" in write_report(opened).read_text()


def test_named_files_are_predicted_or_refused(run: tuple[Run, str], digits: Manifest) -> None:
    with pytest.raises(SampleError, match=r"005\.png"):
        predict(run[0], [str(digits.image_path(5))])


def test_fail_stops_with_the_reason_and_leaves_nothing(
    digits: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"train {digits.root} --out {tmp_path / 'run'} --data.image_size 16 --recipe.epochs 1"
    assert cli.run([*words.split(), "--model.backbone", "simple_cnn"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "must be a JPEG" in message
    assert ".png" in message
    assert not (tmp_path / "run").exists()


def test_too_many_stop_the_run(digits: Manifest, tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config(data__unreadable="skip", data__max_unreadable=0)
    with pytest.raises(SampleError, match=r"(?s)max_unreadable.*1 of 90.*005\.png"):
        train(digits, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_masks(mask_folders: Path, tiny_config: Config, tmp_path: Path) -> None:
    shutil.copytree(mask_folders, tmp_path / "scenes")
    (tmp_path / "scenes" / "masks" / "07.png").write_bytes(b"")
    (tmp_path / "scenes" / "images" / "30.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    scenes = Manifest.from_folder(tmp_path / "scenes")
    scenes = scenes.with_splits(np.repeat([2, 1, 0], 20))
    flags = {"data__image_size": 32, "data__batch_size": 8, "recipe__epochs": 1}
    with pytest.raises(ManifestError, match=r"2 of 60 are not"):
        train(scenes, tiny_config(**flags), tmp_path / "run")
    config = tiny_config(**flags, data__unreadable="skip", data__max_unreadable=0.1)
    run = train(scenes, config, tmp_path / "run")
    outcome = evaluate(run, "test")
    assert (outcome["num_samples"], outcome["num_unreadable"]) == (19, 1)
    assert sum(row["pixels"] for row in outcome["per_class"]) == 19 * 32 * 32
    assert [Path(path).name for path in run.unreadable()["validation"]] == ["30.png"]
    assert [Path(path).name for path in run.unreadable()["test"]] == ["07.png"]


def test_the_usual_size_is_that_of_readable_images(digits: Manifest, tiny_config: Config) -> None:
    config = tiny_config(data__unreadable="skip")
    unsized = config.data.model_copy(update={"image_size": None})
    assert prepare(digits, config.model_copy(update={"data": unsized})).image_size == (8, 8)
