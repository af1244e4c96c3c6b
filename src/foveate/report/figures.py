"""Figures as SVG that stands inside a page and follows its colours, light or dark."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from foveate.report.summary import series, wilson_interval

MOST_NUMBERED = 20
"""Most classes whose confusion matrix shows numbers."""
MOST_NAMED = 40
"""Most classes that the confusion matrix names on its axes."""

# Stand-ins that become colours of the page: matplotlib knows nothing of CSS variables.
INK, MUTED, LINE, ACCENT, WRONG = "#000001", "#000002", "#000003", "#000004", "#000005"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    WRONG: "var(--wrong)",
}
# Okabe & Ito's blue and vermilion, told apart with any colour vision; laid over the page's ground.
_RIGHT_RGB, _WRONG_RGB = np.array([0, 114, 178]) / 255, np.array([213, 94, 0]) / 255

_STYLE = {
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",
}


def curve_figure(
    history: Sequence[Mapping[str, Any]], metric: str, best: int | None
) -> str | None:
    """Draw a metric over all epochs, on training data and, where measured, on validation data.

    Args:
        history: Records of all epochs, oldest first.
        metric: Name of the value on training data.
        best: Position of the epoch to ring.

    Returns:
        SVG, or None where fewer than two epochs have a value.
    """
    train, validation = (series(history, name) for name in (metric, f"val_{metric}"))
    if max(np.isfinite(train).sum(), np.isfinite(validation).sum()) < 2:
        return None
    epochs = np.arange(1, len(history) + 1)
    judged = validation if np.isfinite(validation).any() else train
    stages = [record.get("stage", "") for record in history]

    def draw(axes: Any) -> None:
        axes.plot(epochs, train, color=MUTED, linewidth=1.3, marker="o", markersize=2.5)
        axes.plot(epochs, validation, color=ACCENT, linewidth=1.8, marker="o", markersize=3.0)
        if best is not None:
            axes.plot(epochs[best], judged[best], "o", ms=9, mfc="none", mec=INK, mew=1.2)
        for place, (before, after) in enumerate(pairwise(stages), start=1):
            if before != after:
                axes.axvline(place + 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
                at = {"xy": (place + 0.5, 1.0), "xycoords": ("data", "axes fraction")}
                shift = {"xytext": (4, -2), "textcoords": "offset points", "va": "top"}
                axes.annotate(after.replace("_", " "), **at, **shift, color=MUTED, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y")
        axes.set_xlabel("epoch")

    return drawn(f"curve-{metric}", f"{metric} by epoch", (4.4, 2.5), draw)


def confusion_figure(
    name: str, counts: NDArray[np.int64], class_names: Sequence[str], per_pixel: bool
) -> str:
    """Draw a confusion matrix, shaded by the share of each row.

    Mistakes are shaded by the square root of their share, so that rare ones can be seen. Many
    classes are drawn without numbers, very many without names.

    Args:
        name: Sets this figure apart from others of the page.
        counts: (K, K) int64; rows are the true class.
        class_names: Names of the K classes.
        per_pixel: Whether pixels were counted: then cells show percent of the row.

    Returns:
        SVG.
    """
    size = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(size, dtype=bool)
    alpha = np.where(right, shares, np.sqrt(shares))
    tint = np.where(right[..., None], _RIGHT_RGB, _WRONG_RGB)

    def draw(axes: Any) -> None:
        axes.imshow(np.dstack([tint, alpha]), interpolation="none", aspect="equal")
        axes.spines[:].set_visible(True)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        _name_classes(axes, class_names)
        if size <= MOST_NUMBERED:
            for row, column in np.argwhere(counts):
                text = _percent(shares[row, column]) if per_pixel else f"{counts[row, column]:,}"
                color = "#ffffff" if alpha[row, column] > 0.6 else INK
                middle = {"ha": "center", "va": "center", "fontsize": 8}
                axes.text(column, row, text, color=color, **middle)

    side = size * (0.42 if size <= MOST_NUMBERED else 0.22) if size <= MOST_NAMED else 7.0
    side = max(side, 1.6)
    return drawn(name, "confusion matrix", (side + 1.5, side + 1.3), draw)


def reliability_figure(name: str, confidence: NDArray[Any], right: NDArray[np.bool_]) -> str:
    """Draw how often predictions of a certain confidence are right, in ten bins.

    Args:
        name: Sets this figure apart from others of the page.
        confidence: Probability of the predicted class (N,), 0 to 1; N at least 1.
        right: Whether it is the true class (N,).

    Returns:
        SVG: a point a bin (Niculescu-Mizil & Caruana, 2005) with its 95 % interval.
    """
    bins = np.minimum((confidence * 10).astype(np.int64), 9)
    sizes = np.bincount(bins, minlength=10)
    used = sizes > 0
    sizes = sizes[used]
    stated = np.bincount(bins, confidence, 10)[used] / sizes
    found = np.bincount(bins, right, 10)[used] / sizes
    low, high = wilson_interval(found, sizes)

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=(0, (2, 3)))
        axes.vlines(stated, low, high, color=ACCENT, linewidth=1.2)
        axes.plot(stated, found, "o", color=ACCENT, markersize=4.5, clip_on=False)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="share that is right")
        axes.grid()

    return drawn(name, "share of right predictions by confidence", (4.4, 3.3), draw)


def histogram_figure(name: str, values: NDArray[Any], label: str) -> str:
    """Draw how values from 0 to 1 are distributed, in twenty bins.

    Args:
        name: Sets this figure apart from others of the page.
        values: (N,) float; N at least 1.
        label: What the values are.

    Returns:
        SVG.
    """

    def draw(axes: Any) -> None:
        axes.hist(values, bins=20, range=(0, 1), color=ACCENT, rwidth=0.9)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set(xlim=(0, 1), xlabel=label, ylabel="images")
        axes.grid(axis="y")

    return drawn(name, f"images by {label}", (4.4, 2.5), draw)


def _name_classes(axes: Any, names: Sequence[str]) -> None:
    """Name the classes on both axes; beyond `MOST_NAMED`, number every tenth from 1."""
    if len(names) > MOST_NAMED:
        places = np.arange(9, len(names), 10)
        axes.set_xticks(places, [str(place + 1) for place in places])
        axes.set_yticks(places, [str(place + 1) for place in places])
        return
    short = [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
    upright = max(map(len, short)) <= 3
    turned = {} if upright else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(short)), short, **turned)
    axes.set_yticks(range(len(short)), short)
    axes.tick_params(length=0, labelcolor=INK, labelsize=8)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def drawn(name: str, label: str, inches: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Draw on fresh axes.

    Args:
        name: Sets this figure apart from others of the page.
        label: What it shows, for those who cannot see it.
        inches: Width and height; at most 4.6 wide, a phone shows its text large enough.
        draw: Draws on the axes it is given, in the colours of this module.

    Returns:
        SVG to stand in a page, in the page's colours and font.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser's fonts draw the text, so what matplotlib's own font lacks is no matter.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    return _inlined(file.getvalue(), name, label)


def _inlined(svg: str, name: str, label: str) -> str:
    """Take what is drawn, in the colours of the page, with ids that no other figure has."""
    name = re.sub(r"\W", "-", name)
    opening = re.search(r'<svg[^>]*viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>', svg)
    if opening is None:
        raise ValueError("matplotlib must write an <svg> with a viewBox, but did not.")
    width, height = opening.groups()
    body = svg[opening.end() :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)

    def adapt(tag: re.Match[str]) -> str:
        text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", tag[0])
        return re.sub("#00000[1-5]", lambda color: _VARIABLES[color[0]], text)

    # Only tags: names of classes stand between them, and stay as they are.
    body = re.sub(r"<[^>]+>", adapt, body)
    pixels = round(float(width) * 4 / 3)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}" '
        f'style="--width: {pixels}px">{body}'
    )
