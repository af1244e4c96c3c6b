"""Judge a run on a split: scores, predictions, and the worst mistakes as pictures."""

from __future__ import annotations

import heapq
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.data.listing import SPLIT_WORDS, SPLITS
from foveate.data.manifest import Manifest
from foveate.disk import write_atomically
from foveate.errors import RunError
from foveate.evaluation.pictures import OVERLAY_COLORS, write_pictures
from foveate.evaluation.predict import Predictor
from foveate.runs import Run
from foveate.scale import runtime
from foveate.tasks.base import Task, softmax
from foveate.tasks.segmentation import confusion, overlap_scores

_WORST = 24


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
    loader = predictor.loader(manifest, config, config.data.unreadable)
    scorer = predictor.task.scorer()
    worst = _Worst(_WORST)
    kept, parts = [], []
    for judged in predictor.stream(loader):
        scorer.update(judged.targets, judged.logits)
        columns = _columns(predictor.task, judged.targets, judged.logits)
        worst.update(columns["badness"])
        kept.append(judged.rows)
        parts.append(pl.DataFrame({k: v for k, v in columns.items() if k != "badness"}))
    opened.add_unreadable(split, loader.unreadable)
    readable = manifest.take(np.concatenate(kept))
    rows = worst.rows()
    predictions = _with_paths(readable, pl.concat(parts))
    _write_predictions(predictions, opened.predictions_path(split))
    pictures = write_pictures(
        predictor, readable.take(rows), config, opened.mistakes_folder(split)
    )
    outcome = {
        "split": split,
        "num_samples": readable.num_samples,
        "num_unreadable": manifest.num_samples - readable.num_samples,
        "task": predictor.task.name,
        "class_names": list(predictor.task.class_names),
        "image_size": list(predictor.image_size),
        **({"overlay_colors": OVERLAY_COLORS} if predictor.task.per_pixel else {}),
        **scorer.result(),
        "worst": _describe_worst(predictions, rows, pictures, opened),
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


def _columns(task: Task, targets: NDArray[Any], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Predictions of a batch as columns, with how bad each one is (0 and below: not wrong)."""
    if not task.per_pixel:
        chosen = np.take_along_axis(softmax(logits), targets[:, None], axis=-1)[:, 0]
        wrong = logits.argmax(-1) != targets
        return {**task.decode(logits), "badness": np.where(wrong, 1.0 - chosen, 0.0)}
    predicted = logits.argmax(-1)
    scores = [
        np.nanmean(overlap_scores(confusion(truth, guess, task.num_outputs))[0])
        if (truth < task.num_outputs).any()
        else np.nan
        for truth, guess in zip(targets, predicted, strict=True)
    ]
    columns = task.decode(logits)
    del columns["mask"]
    iou = np.asarray(scores)
    return {"mean_iou": iou, **columns, "badness": np.nan_to_num(1.0 - iou)}


class _Worst:
    """Remembers the rows of the worst predictions."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int]] = []
        self._seen = 0

    def update(self, badness: NDArray[np.float64]) -> None:
        for value in badness.tolist():
            if value > 0:
                heapq.heappush(self._heap, (value, -self._seen))
                if len(self._heap) > self._most:
                    heapq.heappop(self._heap)
            self._seen += 1

    def rows(self) -> NDArray[np.int64]:
        """Row numbers, the worst first."""
        return np.array([-row for _, row in sorted(self._heap, reverse=True)], np.int64)


def _write_predictions(predictions: pl.DataFrame, path: Path) -> None:
    content = io.BytesIO()
    predictions.write_parquet(content)
    write_atomically(path, content.getvalue())


def _with_paths(manifest: Manifest, predictions: pl.DataFrame) -> pl.DataFrame:
    told = [name for name in ("image", "label", "mask") if name in manifest.table.columns]
    truth = manifest.table.select(told).with_columns(pl.col(told).cast(pl.String))
    return pl.concat([truth, predictions], how="horizontal")


def _describe_worst(
    predictions: pl.DataFrame, rows: NDArray[np.int64], pictures: list[Path], run: Run
) -> list[dict[str, Any]]:
    told = [
        name
        for name in ("image", "label", "predicted", "confidence", "mean_iou")
        if name in predictions.columns
    ]
    return [
        {"picture": picture.relative_to(run.folder).as_posix(), **record}
        for picture, record in zip(
            pictures, predictions[rows].select(told).iter_rows(named=True), strict=True
        )
    ]
