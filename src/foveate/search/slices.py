"""Slices through a study: the scores by one parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from foveate.report.figures import INK, LINE, drawn
from foveate.search.figures import decimals, draw_trials, score_limits
from foveate.search.outcome import StudyRecord, value_text

MOST_CATEGORIES = 10
"""Most categories of a parameter that are drawn apart, the best ones; the rest is one more."""
_MOST_TICKED = 6
"""Most whole numbers of which each has its tick."""
_GOLDEN = 0.618034
"""Its multiples, taken modulo 1, never fall close together: they set equal points apart."""


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
        if key in trial.settings and trial.standing is not None
    }
    groups = _groups(record, key, values) if "choices" in entry else []
    places = _among(groups, values) if groups else _along(values, bool(entry.get("log")))
    if limits is None or len(places) < 2:
        return None

    def draw(axes: Any) -> None:
        if groups:
            _name_groups(axes, groups)
        else:
            _scale(axes, entry, list(places.values()))
        draw_trials(axes, record, places, limits)

    return drawn(f"slice-{key}", f"score by {key}", (3.3, 2.9 if _is_long(groups) else 2.4), draw)


def _scale(axes: Any, entry: Mapping[str, Any], values: Sequence[float]) -> None:
    """Give the axis of a number its scale, its ends and ticks that are easy to read."""
    low, high = min([*values, entry["low"]]), max([*values, entry["high"]])
    if entry.get("log"):
        axes.set_xscale("log")
        margin = max((high / low) ** 0.05, 1.1)
        axes.set_xlim(low / margin, high * margin)
        digits = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=digits, numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
        axes.set_xlim(low - margin, high + margin)
        step = entry.get("step") or 1  # a float, even where all values are whole
        is_whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
        if is_whole and 0 < (high - low) / step <= _MOST_TICKED:
            axes.set_xticks(np.arange(entry["low"], entry["high"] + step / 2, step))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=is_whole))
        axes.xaxis.set_major_formatter(decimals())


def _name_groups(axes: Any, groups: Sequence[str]) -> None:
    short = [name if len(name) <= 18 else f"{name[:17]}…" for name in groups]
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(short)), short, **(turned if _is_long(groups) else {}))
    axes.tick_params(axis="x", length=0, labelcolor=INK, labelsize=8)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    for place in range(len(groups) - 1):
        axes.axvline(place + 0.5, color=LINE, linewidth=0.8)


def _is_long(groups: Sequence[str]) -> bool:
    """Whether names do not fit side by side."""
    return sum(min(len(name), 18) + 2 for name in groups) > 40


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
        if trial.number in values and trial.standing is not None:
            text = value_text(values[trial.number])
            best[text] = max(best.get(text, -math.inf), sign * trial.standing)
    order = [value_text(choice) for choice in record.space[key]["choices"]]
    found = sorted(best, key=lambda text: order.index(text) if text in order else len(order))
    if len(found) <= MOST_CATEGORIES:
        return found
    kept = sorted(found, key=lambda text: -best[text])[: MOST_CATEGORIES - 1]
    return [*(text for text in found if text in kept), f"{len(found) - len(kept)} others"]
