"""Numbers of the report that the run folder does not hold ready: pure functions of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
_METADATA = "metadata."
_NOT_METRICS = (
    "stage",
    "image_size",
    "compares",
    "epoch",
    "seconds",
    "wait_seconds",
    "learning_rate",
    "ended",
)
_Z = 1.959964
"""Quantile of the normal distribution that leaves 2.5 % above it."""


@dataclass(frozen=True)
class ConfusedPair:
    """How often one class was taken for another.

    Attributes:
        true: The true class.
        predicted: What the model said.
        count: Samples, or pixels for masks.
        share: `count` by all of the true class, 0 to 1.
    """

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Comparison:
    """What was planned, and what came.

    Attributes:
        what: Of what.
        planned: Bytes or seconds.
        real: The same; None where it is not known yet.
        is_memory: Whether it is bytes.
    """

    what: str
    planned: float
    real: float | None
    is_memory: bool = False

    @property
    def excess(self) -> float | None:
        """By which share of the planned the real is more; negative where it is less."""
        return None if self.real is None else self.real / self.planned - 1


def wilson_interval(
    share: NDArray[Any] | float, num_samples: NDArray[Any] | int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bound a share that was observed on independent samples, with 95 % confidence.

    The score interval of Wilson (1927, "Probable inference, the law of succession, and
    statistical inference"): unlike the usual one it holds near 0 and 1 and for few samples.

    Args:
        share: What was observed, 0 to 1, of any shape.
        num_samples: On how many samples, at least 1, of the same shape.

    Returns:
        Lower and upper bounds within 0 and 1, float64 of that shape.
    """
    p, n = np.asarray(share, np.float64), np.asarray(num_samples, np.float64)
    center = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    # Rounding may leave the range, or miss p itself, by one unit in the last place.
    low, high = np.clip(center - half, 0.0, p), np.clip(center + half, p, 1.0)
    return low, high


def metric_names(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what was measured each epoch, the loss first, without the ``val_`` twins."""
    names = dict.fromkeys(name.removeprefix("val_") for record in history for name in record)
    return sorted((name for name in names if name not in _NOT_METRICS), key=lambda n: n != "loss")


def series(history: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """Take one value of all epochs, (epochs,) float64; NaN where it was not measured."""
    values = (record.get(name) for record in history)
    return np.array([math.nan if value is None else value for value in values], np.float64)


def best_epoch(history: Sequence[Mapping[str, Any]], monitor: str) -> tuple[int, str] | None:
    """Find the epoch whose weights were kept.

    Args:
        history: Records of all epochs; those whose values do not compare do not count.
        monitor: The value that decided; the loss stands in for a missing ``val_loss``.

    Returns:
        Its position in the history and what decided, or None where nothing was measured.
    """
    watched = (
        "loss" if monitor == "val_loss" and np.isnan(series(history, monitor)).all() else monitor
    )
    values = series(history, watched)
    values[[not record.get("compares", True) for record in history]] = np.nan
    if np.isnan(values).all():
        return None
    falls = watched.endswith("loss")
    return int(np.nanargmin(values) if falls else np.nanargmax(values)), watched


def planned_and_real(
    plan: Mapping[str, Any],
    status: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    limit: float | None = None,
) -> list[Comparison]:
    """Lay what a plan foretold beside what came.

    Args:
        plan: What ``plan.json`` holds.
        status: What ``status.json`` holds.
        history: Records of all epochs; of each stage the median one on images of full size
            counts, as its first compiles and one that was resumed is short.
        limit: Seconds that the run may take, planning included; None where it may take any time.

    Returns:
        Memory, then an epoch of each stage, then the whole time but for that of planning, if it
        was foretold and the limit has left room for it.
    """
    taken: dict[str, list[float]] = {name: [] for name in plan["epoch_seconds"]}
    for record in history:
        if "image_size" in record:
            continue
        taken.setdefault(record["stage"], []).append(record["seconds"])
    epochs = [
        Comparison(
            f"an epoch of {name}", seconds, float(np.median(taken[name])) if taken[name] else None
        )
        for name, seconds in plan["epoch_seconds"].items()
    ]
    memory = Comparison(
        "memory, peak", plan["peak_bytes"], status.get("peak_memory_bytes"), is_memory=True
    )
    compared = [memory, *epochs]
    total, planning = plan["total_seconds"], status.get("planning_seconds", 0.0)
    if total and (limit is None or planning + total <= limit):
        is_whole = status["state"] == "finished" and "seconds" in status
        whole = status["seconds"] - planning if is_whole else None
        compared.append(Comparison("time, in all", total, whole))
    return compared


def confused_pairs(
    counts: NDArray[np.int64], names: Sequence[str], most: int = 10
) -> list[ConfusedPair]:
    """List the classes that were most often taken for another.

    Args:
        counts: Confusion matrix (K, K) int64; rows are the true class.
        names: Names of the K classes.
        most: How many pairs.

    Returns:
        The pairs by falling count, without those that never happened.
    """
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    totals = counts.sum(axis=1)
    return [
        ConfusedPair(
            names[true], names[said], int(wrong[true, said]), wrong[true, said] / totals[true]
        )
        for true, said in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[true, said]
    ]


def split_counts(table: pl.DataFrame) -> dict[str, int]:
    """Count the rows of each split that has any, in the order of use."""
    split = table["split"].cast(pl.String)
    counts = {name: int((split == name).sum()) for name in SPLITS}
    return {name: count for name, count in counts.items() if count}


def class_counts(table: pl.DataFrame, splits: Sequence[str]) -> list[dict[str, Any]]:
    """Count the samples of each class.

    Args:
        table: The manifest; without a column `label` there is nothing to count.
        splits: Which splits, in order.

    Returns:
        A record a class, sorted by name: ``class`` and ``counts``, one integer a split.
    """
    if "label" not in table.columns:
        return []
    pairs = table.select(pl.col("label", "split").cast(pl.String))
    sizes = {
        (label, split): n for label, split, n in pairs.group_by("label", "split").len().rows()
    }
    return [
        {"class": name, "counts": [sizes.get((name, split), 0) for split in splits]}
        for name in sorted(pairs["label"].drop_nulls().unique())
    ]


def group_counts(table: pl.DataFrame) -> dict[str, int] | None:
    """Count the groups, and those whose rows lie in more than one split; None without groups."""
    if "group" not in table.columns:
        return None
    splits = table.drop_nulls("group").group_by("group").agg(pl.col("split").n_unique())["split"]
    return {"groups": splits.len(), "torn": int((splits > 1).sum())}


def describe_metadata(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Describe the metadata columns.

    Args:
        table: The manifest.

    Returns:
        A record a column: ``name``, ``kind``, ``values`` (a text) and ``missing`` (rows).
    """
    columns = [column for column in table if column.name.startswith(_METADATA)]
    return [
        {
            "name": column.name.removeprefix(_METADATA),
            "kind": "number" if column.dtype.is_numeric() else "category",
            "values": _values(column),
            "missing": column.null_count(),
        }
        for column in columns
    ]


def _values(column: pl.Series) -> str:
    known = column.drop_nulls()
    if not known.len():
        return "none"
    if column.dtype.is_numeric():
        numbers = known.to_numpy()
        return f"{numbers.min():g} to {numbers.max():g}"
    return f"{known.n_unique():,} different"
