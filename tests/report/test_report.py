"""Reports of run folders that were written by hand, without Keras."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from foveate.config.files import load_config
from foveate.data.manifest import Manifest
from foveate.errors import RunError
from foveate.report.report import write_report
from foveate.runs import Run
from html_page import Page


def begin(folder: Path, labels: Sequence[str] = (), **columns: list[Any]) -> Run:
    """Make a run of 20 rows: 14 train, 2 validation, 4 test."""
    run = Run.create(
        folder, load_config(None, {"recipe.epochs": "2", "model.backbone": "simple_cnn"})
    )
    splits = ["train"] * 14 + ["validation"] * 2 + ["test"] * 4
    table = pl.DataFrame(
        {
            "image": [f"photos/{row:03d}.png" for row in range(20)],
            "split": pl.Series(splits, dtype=pl.Enum(["train", "validation", "test"])),
            **columns,
        }
    )
    if labels:
        cycle = [labels[row % len(labels)] for row in range(20)]
        table = table.with_columns(label=pl.Series(cycle, dtype=pl.Enum(sorted(labels))))
    Manifest(table, folder, "patients.csv").save(run.manifest_path)
    return run


def add_epochs(run: Run, stages: Sequence[str], metric: str = "accuracy") -> None:
    for place, stage in enumerate(stages):
        values = {"loss": 1.0 / (place + 1), f"val_{metric}": 0.5, metric: 0.25}
        values["val_loss"] = 2.0 / (place + 1)
        clock = {"seconds": 61.0, "wait_seconds": 0.5, "learning_rate": 1e-3}
        run.append_history({"stage": stage, "epoch": place + 1, **clock, **values})


def add_evaluation(
    run: Run,
    task: str,
    names: Sequence[str],
    counts: Any,
    worst: Sequence[dict[str, Any]] = (),
    split: str = "test",
    **scores: Any,
) -> None:
    counts = np.asarray(counts)
    score, total = ("iou", "pixels") if task == "segmentation" else ("f1", "support")
    per_class = [
        {"class": name, score: None if row.sum() == 0 else 0.5, total: int(row.sum())}
        for name, row in zip(names, counts, strict=True)
    ]
    records = [
        {"picture": f"evaluation/{split}_mistakes/{place:02d}.jpg", **record}
        for place, record in enumerate(worst)
    ]
    run.save_json(
        run.evaluation_path(split),
        {
            "split": split,
            "num_samples": 4 if task == "segmentation" else int(counts.sum()),
            "task": task,
            "class_names": list(names),
            "image_size": [48, 64],
            "overlay_colors": ["#e69f00", "#56b4e9"],
            "scores": scores,
            "per_class": per_class,
            "confusion_matrix": counts.tolist(),
            "worst": records,
        },
    )
    for place, record in enumerate(records):
        path = run.folder / str(record["picture"])
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 8), (place, 0, 0)).save(path)


def cats_and_dogs(folder: Path) -> Run:
    """A run that judged 3 of 4 test samples right."""
    run = begin(folder, ["cat", "dog"])
    add_epochs(run, ["scratch", "scratch"])
    wrong = {"image": "photos/017.png", "label": "dog", "predicted": "cat", "confidence": 0.9}
    add_evaluation(
        run,
        "classification",
        ["cat", "dog"],
        [[2, 0], [1, 1]],
        [wrong],
        accuracy=0.75,
    )
    table = {"label": ["cat", "cat", "dog", "dog"], "predicted": ["cat", "cat", "cat", "dog"]}
    frame = pl.DataFrame(table).with_columns(
        confidence=pl.Series([0.9, 1.0, 0.9, 0.6], dtype=pl.Float32)
    )
    run.predictions_path("test").parent.mkdir(exist_ok=True)
    frame.write_parquet(run.predictions_path("test"))
    run.set_status("finished")
    return run


def test_a_classification_run_is_told_from_data_to_settings(tmp_path: Path) -> None:
    run = cats_and_dogs(tmp_path / "pets")
    path = write_report(run)
    assert path == run.report_path
    assert list(path.parent.glob(".*")) == []
    page = Page(path)
    heads = [page.text.index(head) for head in ("Data and splits", "Training", "Scores on the")]
    heads += [page.text.index(head) for head in ("Confusion", "Worst mistakes", "Settings")]
    assert heads == sorted(heads)
    assert "75.0 % accuracy on the test split 3 of 4 samples right" in page.text
    # Wilson's interval for 3 of 4, worked by hand: (0.75 + 0.4802 ± 0.6386) / 1.9604.
    assert "30.1 % to 95.4 %" in page.text
    assert "most frequent class would be right in 50.0 %" in page.text
    assert "20 samples from patients.csv" in page.text
    assert "train 14 70.0 % validation 2 10.0 % test 4 20.0 %" in page.text
    assert "simple_cnn, from random weights, at 48 × 64 px" in page.text
    assert "2 min 2 s for 2 epochs" in page.text
    assert "The weights kept are those of epoch 2, the best by val_loss" in page.text
    assert "dog taken for cat 90.0 % sure photos/017.png" in page.text
    # (0.9 + 1.0 + 0.9 + 0.6) / 4
    assert "On average the model is 85.0 % sure of what it says, and right in 75.0 %" in page.text
    assert "recipe.epochs 2 The exact" in page.text
    assert run.config_path.read_text() in "".join(page.words)


def test_pictures_are_embedded_byte_for_byte(tmp_path: Path) -> None:
    run = cats_and_dogs(tmp_path / "run")
    page = Page(write_report(run))
    (source,) = page.values("src")
    kind, _, data = source.partition(",")
    assert kind == "data:image/jpeg;base64"
    file = run.folder / "evaluation/test_mistakes/00.jpg"
    assert base64.b64decode(data) == file.read_bytes()
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (12, 8)


def test_the_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    page = Page(write_report(cats_and_dogs(tmp_path / "run")))
    references = [value for name in ("src", "href", "xlink:href") for value in page.values(name)]
    assert references
    assert all(value.startswith(("data:image/", "#")) for value in references)
    assert "://" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) == {"#"}
    assert page.count("script") == page.count("link") == 0
    assert any("default-src 'none'" in value for value in page.values("content"))


def test_ids_of_several_figures_do_not_meet(tmp_path: Path) -> None:
    page = Page(write_report(cats_and_dogs(tmp_path / "run")))
    assert len(page.figures()) == 4
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    used = {value[1:] for value in page.values("xlink:href") if value.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert used
    assert used <= set(ids)


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a\"b' & c", "$x^2$", "猫", 'id="x" #000001']
    run = begin(tmp_path / "<u>run", names)
    add_epochs(run, ["frozen", "fine_tune"])
    wrong = {
        "image": "<img src=x>.png",
        "label": names[0],
        "predicted": names[1],
        "confidence": 0.5,
    }
    counts = np.full((5, 5), 2)
    add_evaluation(run, "classification", names, counts, [wrong], accuracy=0.2)
    run.set_status("failed", reason="<u>loss</u> is nan")
    page = Page(write_report(run))
    assert page.count("script") == page.count("u") == 0
    assert "<u>loss</u> is nan" in page.text
    assert "<u>run" in page.text
    assert f"{names[0]} taken for {names[1]}" in page.text
    assert "<img src=x>.png" in page.text
    assert page.values("src") == [value for value in page.values("src") if value[:5] == "data:"]
    for name in names:
        # In tables and on both axes of the figure; long ones are shortened there.
        assert page.text.count(name if len(name) <= 18 else name[:17]) >= 4


def test_a_segmentation_run_speaks_of_pixels(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", mask=[f"masks/{row:03d}.png" for row in range(20)])
    add_epochs(run, ["frozen", "fine_tune"], "mean_iou")
    worst = [{"image": "photos/018.png", "mean_iou": 0.25}]
    names = ["ground", "leaf", "fruit"]
    counts = [[9999, 1, 0], [500, 500, 0], [0, 0, 0]]
    add_evaluation(run, "segmentation", names, counts, worst, mean_iou=0.7, dice=None)
    frame = pl.DataFrame({"image": ["a", "b", "c"], "mean_iou": [0.25, float("nan"), None]})
    run.predictions_path("test").parent.mkdir(exist_ok=True)
    frame.write_parquet(run.predictions_path("test"))
    run.set_status("finished")
    page = Page(write_report(run))
    assert "70.0 % mean IoU on the test split over all pixels of 4 images" in page.text
    assert "all pixels of 4 images together, at 48 × 64 px" in page.text
    assert "interval" not in page.text
    assert "simple_cnn, pretrained" in page.text
    assert "100.0% <0.1% 50.0% 50.0%" in page.text  # rows of the matrix; no pixel, no number
    assert "leaf ground 500 50.0 %" in page.text
    assert "leaf fruit ground (not tinted)" in page.text
    assert "mean IoU 0.250 photos/018.png" in page.text
    assert "dice n/a" in page.text
    assert "images by mean IoU" in page.figures()


def test_a_run_in_tiles_is_judged_at_the_size_of_its_images(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", mask=[f"masks/{row:03d}.png" for row in range(20)])
    flags = {"data.tiles.size": "96,128", "data.image_size": "48,64"}
    run.save_config(load_config(run.config_path, flags))
    worst = [{"image": "photos/018.png", "tile_top": 96, "tile_left": 0, "mean_iou": 0.25}]
    counts = [[9999, 1], [500, 500]]
    add_evaluation(run, "segmentation", ["ground", "leaf"], counts, worst, mean_iou=0.7)
    frame = pl.DataFrame({"image": ["a", "b"], "mean_iou": [0.25, 0.5]})
    run.predictions_path("test").parent.mkdir(exist_ok=True)
    frame.write_parquet(run.predictions_path("test"))
    text = Page(write_report(run)).text
    assert "on the test split over all pixels of 4 images, at the images' own size" in text
    assert (
        "all pixels of 4 images together, at the images' own size; the model sees overlapping "
        "tiles of 96 × 128 px of them."
    ) in text
    assert "the size the model sees" not in text
    assert "the model's image size" not in text
    assert "the worst tiles are shown below" in text
    assert "The tiles of the lowest mean IoU" in text


def test_a_run_without_scores_says_how_to_get_them(tmp_path: Path) -> None:
    run = begin(tmp_path / "my run", ["cat", "dog"])
    add_epochs(run, ["scratch", "scratch"])
    run.set_status("interrupted")
    run.model_folder.mkdir()
    page = Page(write_report(run))
    assert "Interrupted. Training was stopped after 2 epochs" in page.text
    assert f"foveate evaluate '{run.folder}' foveate report '{run.folder}'" in page.text
    assert "Scores on" not in page.text
    assert page.figures() == ["loss by epoch", "accuracy by epoch"]


def test_a_run_that_was_killed_says_how_to_go_on(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", ["cat", "dog"])
    add_epochs(run, ["scratch"])
    run.set_status("running", pid=1)
    page = Page(write_report(run))
    assert f"foveate train --resume {run.folder}" in page.text
    run.set_status("interrupted")
    assert "the best of these" not in Page(write_report(run)).text
    assert "foveate evaluate" not in page.text


def test_a_run_without_test_rows_is_judged_on_validation(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", ["cat", "dog"])
    table = Manifest.load(run.manifest_path)
    table.take(range(16)).save(run.manifest_path)
    run.model_folder.mkdir()
    assert f"foveate evaluate {run.folder} --split validation" in Page(write_report(run)).text
    add_evaluation(
        run,
        "classification",
        ["cat", "dog"],
        np.eye(2, dtype=int),
        split="validation",
        accuracy=1.0,
    )
    page = Page(write_report(run))
    assert "100.0 % accuracy on the validation split" in page.text
    assert "The best epoch was chosen on these samples" in page.text
    assert "There are none: every sample is right." in page.text


def test_a_run_that_is_still_going_has_no_epoch_yet(tmp_path: Path) -> None:
    page = Page(write_report(begin(tmp_path / "run", ["cat", "dog"])))
    assert "Not finished." in page.text
    assert "No epoch has been finished." in page.text
    assert page.figures() == []


def test_one_epoch_and_unknown_scores_leave_no_empty_figure(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", ["cat", "dog"])
    clock = {"seconds": 1.0, "wait_seconds": 0.0, "learning_rate": 3e-7}
    run.append_history(
        {"stage": "scratch", "epoch": 1, **clock, "loss": float("nan"), "accuracy": None}
    )
    scores: dict[str, Any] = {"accuracy": None, "log_loss": None}
    add_evaluation(run, "classification", ["cat", "dog"], np.zeros((2, 2), int), **scores)
    run.set_status("finished")
    page = Page(write_report(run))
    assert page.figures() == []
    assert "n/a accuracy on the test split" in page.text
    assert "log loss n/a" in page.text
    assert "1 scratch n/a n/a 3e-07 1.0 0.0" in page.text


def test_many_classes_stay_readable(tmp_path: Path) -> None:
    names = [f"breed {index:03d}" for index in range(120)]
    run = begin(tmp_path / "run", names)
    counts = np.eye(120, dtype=int) * 10
    counts[7, 8] = 30
    add_evaluation(run, "classification", names, counts, accuracy=0.97)
    page = Page(write_report(run))
    assert (
        "Most confused true taken for samples of the class breed 007 breed 008 30 75.0 %"
        in page.text
    )
    assert "120 breed 119" in page.text


def test_all_evaluated_splits_are_shown_the_test_split_first(tmp_path: Path) -> None:
    run = cats_and_dogs(tmp_path / "run")
    for split in ("train", "validation"):
        add_evaluation(
            run, "classification", ["cat", "dog"], [[1, 0], [0, 1]], split=split, accuracy=1.0
        )
    page = Page(write_report(run))
    assert "75.0 % accuracy on the test split" in page.text
    shown = re.findall(r"Scores on the (\w+) split", page.text)
    assert shown == ["test", "validation", "train"]
    assert "The model has learned from these very samples" in page.text


def test_files_left_out_are_listed_with_their_reasons(tmp_path: Path) -> None:
    run = cats_and_dogs(tmp_path / "run")
    assert "could not be read" not in Page(write_report(run)).text
    run.add_unreadable("train", {"/a/<b>.png": "/a/<b>.png must be an image, but got <html>"})
    run.add_unreadable("test", {f"/{row:03d}.png": "mask /m.png is empty" for row in range(120)})
    outcome = run.load_json(run.evaluation_path("test"))
    run.save_json(run.evaluation_path("test"), {**outcome, "num_unreadable": 120})
    text = Page(write_report(run)).text
    assert "Files that could not be read 121 files were left out" in text
    assert "the first 100 are shown, all are in unreadable.json" in text
    assert "train /a/<b>.png must be an image, but got <html>" in text
    assert "test /098.png mask /m.png is empty" in text
    assert "/099.png" not in text
    assert "120 samples could not be read and do not count." in text


def add_plan(run: Run, **changes: Any) -> None:
    """What `Plan.to_dict` gives, cut to a few lines."""
    lines = [
        {"name": "memory, peak", "value": "= 1.00 GiB", "source": "derived", "reason": "12% free"},
        {"name": "scratch, rate", "value": "9 <b>/s", "source": "measured", "reason": "a batch"},
    ]
    plan = {
        "batch_size": 32,
        "peak_bytes": 2**30,
        "epoch_seconds": {"scratch": 50.0, "fine_tune": 70.0},
        "total_seconds": 200.0,
        "ledger": lines,
        "advice": ["One more GiB would allow batches of 64."],
    }
    run.save_json(run.plan_path, {**plan, **changes})


def test_what_was_planned_is_laid_beside_what_came(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", ["cat", "dog"])
    add_epochs(run, ["scratch", "scratch"])  # of 61 seconds
    run.set_status("finished", seconds=200.4, peak_memory_bytes=1536 * 2**20)
    assert " Plan " not in Page(write_report(run)).text
    assert "Memory 1.50 GiB at most Data" in Page(write_report(run)).text
    add_plan(run)
    page = Page(write_report(run))
    assert "Took 3 min 20 s for 2 epochs" in page.text
    assert "memory, peak 1.00 GiB 1.50 GiB +50 %" in page.text
    assert "an epoch of scratch 50 s 1 min 1 s +22 %" in page.text
    assert "an epoch of fine_tune 1 min 10 s not known yet" in page.text
    assert "time, in all 3 min 20 s 3 min 20 s 0 %" in page.text
    assert "One more GiB would allow batches of 64." in page.text
    assert "scratch, rate 9 <b>/s measured a batch" in page.text
    assert "Memory ran short" not in page.text


def test_a_plan_that_did_not_hold(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", ["cat", "dog"])
    config = load_config(run.config_path, {"budget.ram": "1GiB", "data.batch_size": "8"})
    run.save_config(config)
    run.set_status("failed", reason="no memory", seconds=100.0, peak_memory_bytes=700 * 2**20)
    add_plan(run, total_seconds=None)
    page = Page(write_report(run))
    assert "batches of 32 were planned, those of 8 were the last" in page.text
    assert "memory, peak 1.00 GiB 700 MiB \u221232 %" in page.text
    assert "Memory 700 MiB at most of 1.00 GiB" in page.text
    assert "time, in all" not in page.text


def test_groups_and_metadata_are_told(tmp_path: Path) -> None:
    run = begin(
        tmp_path / "run",
        ["cat", "dog"],
        group=[f"patient {row % 14}" for row in range(20)],
        weight=[1.0] * 20,
        **{"metadata.age": [None, *map(float, range(31, 50))]},
    )
    page = Page(write_report(run))
    # Rows 14 to 19, held out, repeat the patients of rows 0 to 5.
    assert "6 groups of 14 lie in more than one split" in page.text
    assert "Samples are weighted in training." in page.text
    assert "age number 31 to 49 1" in page.text


def test_a_lost_picture_is_missed_but_no_obstacle(tmp_path: Path) -> None:
    run = cats_and_dogs(tmp_path / "run")
    (run.folder / "evaluation/test_mistakes/00.jpg").unlink()
    assert "The picture is no longer in the run folder." in Page(write_report(run)).text


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = cats_and_dogs(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_a_run_without_samples_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", load_config())
    with pytest.raises(RunError, match=r"has no manifest\.parquet.*train again"):
        write_report(run)


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    run = cats_and_dogs(tmp_path / "run")
    run.evaluation_path("test").write_text("{")
    with pytest.raises(RunError, match=r"test\.json must be JSON"):
        write_report(run)
