"""Judge a run on a split: scores, predictions, and the worst mistakes as pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl

from foveate.data.listing import SPLIT_WORDS, SPLITS
from foveate.data.manifest import Manifest
from foveate.disk import write_atomically
from foveate.errors import RunError
from foveate.evaluation.judging import judge, judge_tiles
from foveate.evaluation.pictures import OVERLAY_COLORS, write_pictures
from foveate.evaluation.predict import Predictor
from foveate.runs import Run
from foveate.scale import runtime
from foveate.tasks.segmentation import Segmentation


def evaluate(run: str | Path | Run, split: str = "test") -> dict[str, Any]:
    """Judge a run's model on one of its splits, and keep the outcome in the run folder.

    Args:
        run: A run folder or a Run.
        split: ``train``, ``validation`` (or ``val``) or ``test``.

    Returns:
        What ``evaluation/<split>.json`` holds: ``split``, ``num_samples``, ``num_unreadable``
        (left out of all that follows), ``scores`` (name to number), ``per_class``,
        ``confusion_matrix``, ``worst`` and more.

    Raises:
        RunError: There is no such split, or no trained model.
        SampleError: A file cannot be read, and the run's `data.unreadable` is ``fail``; or too
            many cannot.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    config = opened.config()
    runtime.prepare(config.runtime.backend)
    split = SPLIT_WORDS.get(split, split)
    manifest = _rows(opened, split)
    predictor = Predictor.load(opened.model_folder)
    if predictor.tiles.size is not None and isinstance(predictor.task, Segmentation):
        judged = judge_tiles(predictor, predictor.task, manifest, config)
    else:
        judged = judge(predictor, manifest, config)
    opened.add_unreadable(split, judged.unreadable)
    readable = manifest.take(judged.rows)
    _write_predictions(_with_paths(readable, judged.predictions), opened.predictions_path(split))
    folder = opened.mistakes_folder(split)
    pictures = write_pictures(predictor, judged.mistakes, config, folder)
    outcome = {
        "split": split,
        "num_samples": readable.num_samples,
        "num_unreadable": manifest.num_samples - readable.num_samples,
        "task": predictor.task.name,
        "class_names": list(predictor.task.class_names),
        "image_size": list(predictor.image_size),
        **({"overlay_colors": OVERLAY_COLORS} if predictor.task.per_pixel else {}),
        **judged.scorer.result(),
        "worst": _describe_worst(_with_paths(judged.mistakes, judged.mistaken), pictures, opened),
    }
    opened.save_json(opened.evaluation_path(split), outcome)
    return outcome


def held_out_split(run: Run) -> str | None:
    """Name the split that a run is judged on: test, else validation, else none."""
    counts = Manifest.load(run.manifest_path).table["split"].cast(pl.String)
    return next((name for name in ("test", "validation") if (counts == name).any()), None)


def _rows(run: Run, split: str) -> Manifest:
    if split not in SPLITS:
        raise RunError(f"A split is one of {list(SPLITS)}, but got {split!r}.")
    manifest = Manifest.load(run.manifest_path).split(split)
    if manifest.num_samples == 0:
        raise RunError(f"The run {str(run.folder)!r} has no {split} split to judge on.")
    return manifest


def _write_predictions(predictions: pl.DataFrame, path: Path) -> None:
    content = io.BytesIO()
    predictions.write_parquet(content)
    write_atomically(path, content.getvalue())


def _with_paths(manifest: Manifest, predictions: pl.DataFrame) -> pl.DataFrame:
    """Put before predictions what they are of, and of tiles where they lie."""
    told = [name for name in ("image", "label", "mask") if name in manifest.table.columns]
    truth = manifest.table.select(told).with_columns(pl.col(told).cast(pl.String))
    if "tile_top" in manifest.table.columns:
        truth = truth.with_columns(manifest.table["tile_top"], manifest.table["tile_left"])
    return pl.concat([truth, predictions], how="horizontal")


def _describe_worst(
    mistakes: pl.DataFrame, pictures: list[Path], run: Run
) -> list[dict[str, Any]]:
    told = ("image", "label", "predicted", "confidence", "mean_iou", "tile_top", "tile_left")
    records = mistakes.select(name for name in told if name in mistakes.columns)
    return [
        {"picture": picture.relative_to(run.folder).as_posix(), **record}
        for picture, record in zip(pictures, records.iter_rows(named=True), strict=True)
    ]
