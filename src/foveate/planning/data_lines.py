"""Lines of the ledger on the data: what there is, and what loading it takes."""

from __future__ import annotations

from foveate.config.settings import RunConfig
from foveate.planning.fingerprint import Fingerprint
from foveate.planning.measurement import Measurement
from foveate.planning.plan import Line


def data_lines(config: RunConfig, found: Fingerprint, measured: Measurement) -> list[Line]:
    """Say what was found out about the data.

    Args:
        config: What the user states.
        found: What the files are like.
        measured: What a trial found in them.

    Returns:
        Up to four lines.
    """
    rows, in_tiles = measured.rows, config.data.tiles.size is not None
    lines = [
        Line("data", str(found), "measured", f"the headers of {found.num_looked_at} files"),
        *_class_lines(measured),
        Line(
            "tiles of an epoch" if in_tiles else "splits",
            f"{rows['train']:,} train, {rows['validation']:,} validation, {rows['test']:,} test",
            "derived",
            "data.splits and what the data gives",
        ),
    ]
    if measured.load_seconds:
        rate = 1 / sum(measured.load_seconds.values())
        parts = ", ".join(f"{part} {1000 * s:.2g}" for part, s in measured.load_seconds.items())
        value = f"{rate:,.{0 if rate >= 10 else 1}f} images/s a thread"
        lines.append(Line("loading", value, "measured", f"milliseconds an image: {parts}"))
    return lines


def _class_lines(measured: Measurement) -> list[Line]:
    counts = measured.class_counts
    if not counts:
        return []
    rarest, usual = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    span = f"{counts[rarest]:,} to {counts[usual]:,} images"
    if measured.counts_pixels:
        percent = 100 / (sum(counts.values()) or 1)  # all of them may be ignored
        low, high = percent * counts[rarest], percent * counts[usual]
        span = f"{low:.2g}% to {high:.2g}% of the pixels"
    reason = f"of the training split; rarest {rarest}, most frequent {usual}"
    return [Line("classes", f"{len(counts):,}, {span}", "measured", reason)]
