import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from foveate.data.manifest import Manifest
from foveate.errors import RunError
from foveate.evaluation.pictures import overlay
from foveate.evaluation.scores import evaluate
from foveate.runs import Run
from foveate.tasks.base import IGNORED


def test_scores_of_labels(digit_run: Run) -> None:
    outcome = evaluate(digit_run, "test")
    stored = json.loads((digit_run.folder / "evaluation/test.json").read_text())
    assert stored["scores"]["accuracy"] == outcome["scores"]["accuracy"]
    assert (stored["split"], stored["num_samples"]) == ("test", 15)
    predictions = pl.read_parquet(digit_run.folder / "predictions/test.parquet")
    right = (predictions["label"] == predictions["predicted"]).mean()
    assert right == pytest.approx(stored["scores"]["accuracy"])
    assert np.sum(stored["confusion_matrix"]) == 15
    wrong = predictions.filter(pl.col("label") != pl.col("predicted"))
    assert {entry["image"] for entry in stored["worst"]} == set(wrong["image"])


def test_scores_do_not_depend_on_batches(digit_run: Run) -> None:
    """Predictions of the training split belong to the right rows."""
    evaluate(digit_run, "train")
    predictions = pl.read_parquet(digit_run.predictions_path("train"))
    rows = Manifest.load(digit_run.manifest_path).split("train").table
    assert predictions["image"].to_list() == rows["image"].to_list()
    assert predictions["label"].to_list() == rows["label"].cast(pl.String).to_list()
    assert predictions.filter(pl.col("label") == pl.col("predicted")).height > 0.7 * rows.height


def test_scores_of_masks(mask_run: Run) -> None:
    outcome = evaluate(mask_run.folder, "test")
    assert {"mean_iou", "dice", "pixel_accuracy"} <= set(outcome["scores"])
    assert sum(row["pixels"] for row in outcome["per_class"]) == outcome["num_samples"] * 32 * 32
    worst = [entry["mean_iou"] for entry in outcome["worst"]]
    assert worst == sorted(worst)
    for entry in outcome["worst"]:
        with Image.open(mask_run.folder / entry["picture"]) as picture:
            assert picture.width == 3 * picture.height


def test_metadata_is_judged(metadata_run: Run) -> None:
    assert evaluate(metadata_run, "validation")["num_samples"] > 0


def test_what_cannot_be_judged(digit_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="but got 'tset'"):
        evaluate(digit_run, "tset")
    with pytest.raises(RunError, match="is not a folder"):
        evaluate(tmp_path / "nowhere")


def test_overlays_tint_classes_and_leave_the_background() -> None:
    image = np.full((2, 2, 3), 200, np.uint8)
    ids = np.array([[0, 1], [2, IGNORED]], np.uint8)
    tinted = overlay(image, ids)
    np.testing.assert_allclose(tinted[0, 0], image[0, 0], atol=1)
    assert len(np.unique(tinted.reshape(-1, 3), axis=0)) == 4
