"""Scores of a study's trials as figures, in the colours of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.ticker import (
    MaxNLocator,
    ScalarFormatter,
)
from numpy.typing import NDArray

from foveate.report.figures import ACCENT, INK, MUTED, WRONG, drawn
from foveate.search.outcome import StudyRecord, TrialRecord

_DASHED = (0, (5, 3))


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
        draw_trials(axes, record, {trial.number: trial.number for trial in record.trials}, limits)
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


def score_limits(record: StudyRecord) -> tuple[float, float] | None:
    """Span the axis of scores; None where fewer than two trials were measured.

    Complete trials decide where there are two: those that were pruned stand lower by nature.
    """
    heights = [trial.standing for trial in record.trials if trial.standing is not None]
    scores = [trial.score for trial in record.trials if trial.score is not None]
    if len(heights) < 2:
        return None
    return _limits(scores if len(scores) > 1 else heights, record.maximize, record.baseline)


def _is_lost(trial: TrialRecord) -> bool:
    return trial.standing is None and trial.outcome not in ("running", "waiting")


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


def draw_trials(
    axes: Any, record: StudyRecord, places: Mapping[int, float], limits: tuple[float, float]
) -> None:
    """Draw trials, the range of their repeats, and what the default settings reach.

    Args:
        axes: Where to.
        record: Their study.
        places: Number of a trial to its place along the x axis; all others are left out.
        limits: Lower and upper end of the y axis.
    """
    styles = {
        "complete": {"color": ACCENT, "ms": 4.2, "alpha": 0.75, "zorder": 3},
        "pruned": {"color": MUTED, "ms": 2.8, "alpha": 0.6, "zorder": 2},
    }
    for outcome, style in styles.items():
        found = [t for t in record.trials if t.outcome == outcome and t.number in places]
        points = [(places[t.number], t.standing) for t in found if t.standing is not None]
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
    if baseline is not None and baseline.score is not None:
        axes.axhline(baseline.score, color=INK, linewidth=1.0, linestyle=_DASHED, zorder=2.5)
        if baseline.number in places:
            point = places[baseline.number], baseline.score
            axes.plot(*point, "o", color=INK, ms=4.2, mew=0, zorder=4)
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


def _finish(axes: Any) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(decimals())
    axes.grid(axis="y")


def decimals() -> ScalarFormatter:
    """Write ticks in full, all to as many digits."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    return formatter
