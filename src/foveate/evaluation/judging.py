"""Run a split through a model: what it says of each row, and where it errs most."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.data.storage import Storage
from foveate.data.tile_reader import TileReader
from foveate.evaluation.predict import Judged, Predictor
from foveate.evaluation.stitch import whole_images
from foveate.tasks.base import Scorer, Task, softmax
from foveate.tasks.segmentation import Segmentation, confusion, overlap_scores

_WORST = 24


@dataclass(frozen=True)
class Judgement:
    """What a model made of a split.

    Attributes:
        rows: Rows of the split that could be read, (N,).
        predictions: A row each.
        mistakes: The worst rows, or tiles, the worst first.
        mistaken: What is predicted of each of these.
        unreadable: Images that were left out, with the reason.
        scorer: The scores over all of them.
    """

    rows: NDArray[np.integer]
    predictions: pl.DataFrame
    mistakes: Manifest
    mistaken: pl.DataFrame
    unreadable: dict[str, str]
    scorer: Scorer


def judge(predictor: Predictor, manifest: Manifest, config: RunConfig) -> Judgement:
    """Judge images that the model sees whole.

    Args:
        predictor: The model.
        manifest: The rows of a split.
        config: The run's settings.

    Raises:
        SampleError: A file cannot be read and may not be left out, or too many cannot.
    """
    loader = predictor.loader(manifest, config, config.data.unreadable)
    scorer, worst = predictor.task.scorer(), _Worst()
    kept, parts = [], []
    for judged in predictor.stream(loader):
        scorer.update(judged.targets, judged.logits)
        columns = _columns(predictor.task, judged.targets, judged.logits)
        worst.update(judged.rows, columns.pop("badness"))
        kept.append(judged.rows)
        parts.append(pl.DataFrame(columns))
    rows, predictions = np.concatenate(kept), pl.concat(parts)
    mistakes = worst.rows()
    mistaken = predictions[np.searchsorted(rows, mistakes)]
    return Judgement(
        rows, predictions, manifest.take(mistakes), mistaken, loader.unreadable, scorer
    )


def judge_tiles(
    predictor: Predictor, task: Segmentation, manifest: Manifest, config: RunConfig
) -> Judgement:
    """Judge images at their own resolution, of which the model sees overlapping tiles.

    Args:
        predictor: The model.
        task: What it predicts.
        manifest: The rows of a split.
        config: The run's settings.

    Returns:
        The scores count each pixel of the images once; mistakes are tiles.

    Raises:
        SampleError: As `judge`.
    """
    skip = config.data.unreadable
    tiles = predictor.tile_rows(manifest, config, skip)
    loader = predictor.loader(tiles, config, skip)
    scorer, worst = task.scorer(), _Worst()

    def watched() -> Iterator[Judged]:
        for judged in predictor.stream(loader):
            worst.update(judged.rows, _badness(_overlaps(task, judged.targets, judged.logits)))
            yield judged

    kept, parts = [], []
    with Storage(config.cache_bytes) as storage:
        masks = TileReader(manifest, predictor.tiles, predictor.decode, task.encode, storage)
        for whole in whole_images(predictor.bands(watched(), tiles), masks.ids):
            scorer.add(whole.counts)
            columns = task.share_columns(whole.shares)
            parts.append(pl.DataFrame({"mean_iou": [_mean_iou(whole.counts)], **columns}))
            kept.append(whole.image)
    mistakes = tiles.take(worst.rows())
    mistaken = pl.DataFrame({"mean_iou": 1.0 - worst.badness()})
    rows, predictions = np.array(kept), pl.concat(parts)
    return Judgement(rows, predictions, mistakes, mistaken, loader.unreadable, scorer)


def _columns(task: Task, targets: NDArray[Any], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Predictions of a batch as columns, with how bad each one is (0 and below: not wrong)."""
    columns = task.decode(logits)
    if not task.per_pixel:
        chosen = np.take_along_axis(softmax(logits), targets[:, None], axis=-1)[:, 0]
        wrong = logits.argmax(-1) != targets
        return {**columns, "badness": np.where(wrong, 1.0 - chosen, 0.0)}
    del columns["mask"]
    iou = _overlaps(task, targets, logits)
    return {"mean_iou": iou, **columns, "badness": _badness(iou)}


def _overlaps(
    task: Task, targets: NDArray[Any], logits: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean IoU of each sample, (B,)."""
    pairs = zip(targets, logits.argmax(-1), strict=True)
    counts = [confusion(truth, guess, task.num_outputs) for truth, guess in pairs]
    return np.array([_mean_iou(each) for each in counts])


def _mean_iou(counts: NDArray[np.int64]) -> float:
    """Of pixels by true and predicted class, (K, K); NaN where no pixel has a class."""
    return float(np.nanmean(overlap_scores(counts)[0])) if counts.any() else float("nan")


def _badness(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.nan_to_num(1.0 - iou)


class _Worst:
    """Remembers the worst predictions."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []

    def update(self, rows: NDArray[np.integer], badness: NDArray[np.float64]) -> None:
        for row, value in zip(rows.tolist(), badness.tolist(), strict=True):
            if value > 0:
                heapq.heappush(self._heap, (value, -row))
                if len(self._heap) > _WORST:
                    heapq.heappop(self._heap)

    def rows(self) -> NDArray[np.int64]:
        """Row numbers, the worst first."""
        return np.array([-row for _, row in sorted(self._heap, reverse=True)], np.int64)

    def badness(self) -> NDArray[np.float64]:
        """How bad each of them is."""
        return np.array([value for value, _ in sorted(self._heap, reverse=True)])
