"""Figures of a study, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    ScalarFormatter,
)
from numpy.typing import NDArray

from foveate.report.figures import ACCENT, INK, LINE, MUTED, WRONG, drawn
from foveate.search.outcome import StudyRecord, TrialRecord, value_text

MOST_CATEGORIES = 10
"""Most categories of a parameter that are drawn apart, the best ones; the rest is one more."""
_MOST_TICKED = 6
"""Most whole numbers of which each has its tick."""
_DASHED = (0, (5, 3))
_GOLDEN = 0.618034


def history_figure(record: StudyRecord) -> str | None:
    """Draw the score of each trial by its number, and the best so far.

    Args:
        record: A study.

    Returns:
        SVG, or None where fewer than two trials were measured.
    """
    limits = score_limits(record)
    if limits is None:
        return None
    complete = {t.number: t.score for t in record.trials if t.score is not None}
    scoreless = [trial for trial in record.counted if _is_lost(trial)]

    def draw(axes: Any) -> None:
        if complete:
            best = list(accumulate(complete.values(), max if record.maximize else min))
            line = {"color": ACCENT, "linewidth": 1.3, "where": "post", "alpha": 0.7}
            axes.step([*complete, record.trials[-1].number], [*best, best[-1]], **line)
        _draw_trials(axes, record, {trial.number: trial.number for trial in record.trials}, limits)
        _draw_default(axes, record)
        at_foot = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        lost = [trial.number for trial in scoreless]
        axes.plot(lost, np.zeros(len(lost)), "x", color=WRONG, ms=4.5, **at_foot)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlabel("trial")

    return drawn("history", "score by trial", (4.6, 3.0), draw)


def curves_figure(record: StudyRecord) -> str | None:
    """Draw the objective over the epochs of all trials, those without a score dimmed.

    Args:
        record: A study.

    Returns:
        SVG, or None where no trial has two epochs.
    """
    trials = [trial for trial in record.trials if len(trial.curve) > 1]
    if not trials:
        return None
    values = [value for trial in trials for value in trial.curve.values()]
    limits = _limits(values, record.maximize)
    best, baseline = record.best, record.baseline

    def draw(axes: Any) -> None:
        for trial in trials:
            epochs, values = list(trial.curve), list(trial.curve.values())
            if trial is best:
                style = {"color": ACCENT, "linewidth": 2.4, "zorder": 4}
            elif trial is baseline:
                style = {"color": INK, "linewidth": 1.4, "linestyle": _DASHED, "zorder": 5}
            elif trial.score is not None:
                style = {"color": ACCENT, "linewidth": 1.0, "alpha": 0.45, "zorder": 3}
            else:
                style = {"color": MUTED, "linewidth": 0.8, "alpha": 0.4, "zorder": 2}
                axes.plot(epochs[-1:], values[-1:], "o", color=MUTED, alpha=0.5, ms=2.2)
            axes.plot(epochs, values, **style)
        axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlabel("epoch")
        _finish(axes)

    return drawn("curves", "score by epoch of each trial", (4.6, 3.0), draw)


def slice_figure(record: StudyRecord, key: str) -> str | None:
    """Draw the score of each trial by its value of one parameter.

    Args:
        record: A study.
        key: Config key of the parameter.

    Returns:
        SVG, or None where fewer than two measured trials have the parameter.
    """
    limits, entry = score_limits(record), record.space[key]
    values = {
        trial.number: trial.settings[key]
        for trial in record.trials
        if key in trial.settings and _height(trial) is not None
    }
    groups = _groups(record, key, values) if "choices" in entry else []
    places = _among(groups, values) if groups else _along(values, bool(entry.get("log")))
    if limits is None or len(places) < 2:
        return None

    def draw(axes: Any) -> None:
        _draw_default(axes, record)
        if groups:
            _name_groups(axes, groups)
        else:
            _scale(axes, entry, list(places.values()))
        _draw_trials(axes, record, places, limits)

    return drawn(f"slice-{key}", f"score by {key}", (3.3, 2.9 if _is_long(groups) else 2.4), draw)


def score_limits(record: StudyRecord) -> tuple[float, float] | None:
    """Span the axis of scores; None where fewer than two trials were measured.

    Complete trials decide where there are two: those that were pruned stand lower by nature.
    """
    heights = [height for trial in record.trials if (height := _height(trial)) is not None]
    scores = [trial.score for trial in record.trials if trial.score is not None]
    if len(heights) < 2:
        return None
    return _limits(scores if len(scores) > 1 else heights, record.maximize, record.baseline)


def _height(trial: TrialRecord) -> float | None:
    """Where a trial stands: its score, or the last value before it was pruned."""
    if trial.outcome == "pruned" and trial.last:
        return trial.last[1]
    return trial.score


def _is_lost(trial: TrialRecord) -> bool:
    return _height(trial) is None and trial.outcome not in ("running", "waiting")


def _limits(
    values: Sequence[float], maximize: bool, baseline: TrialRecord | None = None
) -> tuple[float, float]:
    """Span an axis so that a few very bad values do not flatten all others.

    From the best value it reaches three times as far as three quarters of the values do, and at
    least to the default settings.
    """
    sign = 1.0 if maximize else -1.0
    signed = sign * np.asarray(values, np.float64)
    best, worst = signed.max(), signed.min()
    reach = 3 * (best - np.quantile(signed, 0.25))
    floor = max(worst, best - reach) if reach else worst
    if baseline is not None and baseline.score is not None:
        floor = min(floor, sign * baseline.score)
    margin = 0.06 * (best - floor) or 0.02 * abs(best) or 0.01
    low, high = sorted((sign * (floor - margin), sign * (best + margin)))
    return float(low), float(high)


def _draw_trials(
    axes: Any, record: StudyRecord, places: Mapping[int, float], limits: tuple[float, float]
) -> None:
    """Draw all measured trials that have a place, with the range of their repeats."""
    styles = {
        "complete": {"color": ACCENT, "ms": 4.2, "alpha": 0.75, "zorder": 3},
        "pruned": {"color": MUTED, "ms": 2.8, "alpha": 0.6, "zorder": 2},
    }
    for outcome, style in styles.items():
        found = [t for t in record.trials if t.outcome == outcome and t.number in places]
        points = [(places[t.number], y) for t in found if (y := _height(t)) is not None]
        _scatter(axes, np.array(points, np.float64).reshape(-1, 2), limits, style)
    several = [trial for trial in record.trials if trial.spread and trial.number in places]
    axes.vlines(
        [places[trial.number] for trial in several],
        [min(trial.values) for trial in several],
        [max(trial.values) for trial in several],
        color=ACCENT,
        linewidth=1.0,
        alpha=0.4,
    )
    best, baseline = record.best, record.baseline
    if baseline is not None and baseline.number in places and baseline.score is not None:
        axes.plot(places[baseline.number], baseline.score, "o", color=INK, ms=4.2, mew=0, zorder=4)
    if best is not None and best.number in places:
        axes.plot(places[best.number], best.score, "o", ms=9, mfc="none", mec=INK, mew=1.2)
    axes.set_ylim(*limits)
    _finish(axes)


def _scatter(
    axes: Any, points: NDArray[np.float64], limits: tuple[float, float], style: Mapping[str, Any]
) -> None:
    """Draw points (N, 2) float64; what lies beyond an end of the axis is a triangle there."""
    x, y = points.T
    low, high = limits
    inside = (y >= low) & (y <= high)
    axes.plot(x[inside], y[inside], "o", mew=0, **style)
    for marker, beyond in (("v", y < low), ("^", y > high)):
        ends = y[beyond].clip(low, high)
        axes.plot(x[beyond], ends, marker, mew=0, clip_on=False, **{**style, "ms": 5})


def _draw_default(axes: Any, record: StudyRecord) -> None:
    baseline = record.baseline
    if baseline is not None and baseline.score is not None:
        axes.axhline(baseline.score, color=INK, linewidth=1.0, linestyle=_DASHED, zorder=2.5)


def _finish(axes: Any) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(_decimals())
    axes.grid(axis="y")


def _decimals() -> ScalarFormatter:
    """Write ticks in full, all to as many digits."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    return formatter


def _scale(axes: Any, entry: Mapping[str, Any], values: Sequence[float]) -> None:
    """Give the axis of a number its scale, its ends and ticks that are easy to read."""
    low, high = min([*values, entry["low"]]), max([*values, entry["high"]])
    if entry.get("log"):
        axes.set_xscale("log")
        margin = max((high / low) ** 0.05, 1.1)
        axes.set_xlim(low / margin, high * margin)
        steps = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
        axes.set_xlim(low - margin, high + margin)
        steps = (high - low) / (entry.get("step") or 1)
        is_whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
        if is_whole and 0 < steps <= _MOST_TICKED:
            axes.set_xticks(range(entry["low"], entry["high"] + 1, entry.get("step") or 1))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=is_whole))
        axes.xaxis.set_major_formatter(_decimals())


def _name_groups(axes: Any, groups: Sequence[str]) -> None:
    short = [name if len(name) <= 18 else f"{name[:17]}…" for name in groups]
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(short)), short, **(turned if _is_long(short) else {}))
    axes.tick_params(axis="x", length=0, labelcolor=INK, labelsize=8)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    for place in range(len(groups) - 1):
        axes.axvline(place + 0.5, color=LINE, linewidth=0.8)


def _is_long(groups: Sequence[str]) -> bool:
    """Whether names do not fit side by side."""
    return sum(len(name) + 2 for name in groups) > 40


def _along(values: Mapping[int, Any], is_log: bool) -> dict[int, float]:
    """Place numbers on their axis; what is none, such as an unset default, has no place."""
    numbers = {
        trial: float(value)
        for trial, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    return {trial: value for trial, value in numbers.items() if value > 0 or not is_log}


def _among(groups: Sequence[str], values: Mapping[int, Any]) -> dict[int, float]:
    """Place categories, trials side by side; what has no group of its own is in the last."""
    texts = {trial: value_text(value) for trial, value in values.items()}
    last = len(groups) - 1
    return {
        trial: (groups.index(text) if text in groups else last) + (trial * _GOLDEN % 1 - 0.5) / 2
        for trial, text in texts.items()
    }


def _groups(record: StudyRecord, key: str, values: Mapping[int, Any]) -> list[str]:
    """Name the categories that were tried, in the order of the space; many only as far as good."""
    sign = 1.0 if record.maximize else -1.0
    best: dict[str, float] = {}
    for trial in record.trials:
        height = _height(trial)
        if trial.number in values and height is not None:
            text = value_text(values[trial.number])
            best[text] = max(best.get(text, -math.inf), sign * height)
    order = [value_text(choice) for choice in record.space[key]["choices"]]
    found = sorted(best, key=lambda text: order.index(text) if text in order else len(order))
    if len(found) <= MOST_CATEGORIES:
        return found
    kept = sorted(found, key=lambda text: -best[text])[: MOST_CATEGORIES - 1]
    return [*(text for text in found if text in kept), f"{len(found) - len(kept)} others"]
