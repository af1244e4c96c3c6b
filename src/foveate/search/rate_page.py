"""A learning-rate range test as one HTML file: no network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from foveate.disk import write_atomically
from foveate.report.figures import ACCENT, INK, MUTED, drawn
from foveate.report.page import render
from foveate.training.rate_curve import RateCurve

_DASHED = (0, (5, 3))


def write_rate_page(
    path: Path, data: str, curve: RateCurve, flags: str, advice: Sequence[str]
) -> None:
    """Write what a range test found on one offline page.

    Args:
        path: The HTML file; an earlier one is replaced.
        data: What the user calls the data.
        curve: What was found.
        flags: The settings that follow from it, as flags; empty where none do.
        advice: What it means, in sentences.
    """
    content = {
        "data": data,
        "curve": curve,
        "flags": flags,
        "advice": advice,
        "figure": rate_figure(curve),
    }
    write_atomically(path, render("rate.html.j2", content, "foveate.search"))


def rate_figure(curve: RateCurve) -> str:
    """Draw the loss by learning rate, each step and smoothed, and the rate that is suggested.

    Args:
        curve: What was found.

    Returns:
        SVG. Losses far above those of the beginning lie beyond its upper edge.
    """
    smoothed, losses = np.asarray(curve.smoothed), np.asarray(curve.losses)
    # What follows the divergence would flatten all before it.
    low, high = min(losses), max(min(max(smoothed), 1.5 * curve.start), max(losses[:1]))
    margin = 0.06 * (high - low) or 0.1

    def draw(axes: Any) -> None:
        axes.plot(curve.rates, losses, "o", color=MUTED, markersize=2.2, alpha=0.6)
        axes.plot(curve.rates, smoothed, color=ACCENT, linewidth=1.8)
        if curve.suggestion is not None:
            axes.axvline(curve.suggestion, color=INK, linewidth=1.0, linestyle=_DASHED)
            height = np.interp(np.log(curve.suggestion), np.log(curve.rates), smoothed)
            axes.plot(curve.suggestion, height, "o", ms=9, mfc="none", mec=INK, mew=1.2)
        axes.set_xscale("log")
        # As they are written in settings, not as powers.
        axes.xaxis.set_major_locator(LogLocator(numticks=9))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set(ylim=(low - margin, high + margin), xlabel="learning rate", ylabel="loss")
        axes.grid(axis="y")

    return drawn("rate", "training loss by learning rate", (4.6, 3.0), draw)
