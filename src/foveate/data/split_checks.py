"""What is refused of splits, and what whoever divided the data should know of them.

Codes of splits are their positions in `SPLITS`, shape (rows,), -1 where there is none yet; groups
are equal numbers for rows that are never divided.
"""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.data.checks import ManifestWarning
from foveate.data.listing import SPLITS
from foveate.data.manifest import Manifest
from foveate.errors import ManifestError, listed

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


def refuse_divided(manifest: Manifest, given: Codes, groups: Codes) -> None:
    """Refuse groups, or images, that lie in two given splits."""
    pairs = np.unique((groups * len(SPLITS) + given)[given >= 0])
    divided, counts = np.unique(pairs // len(SPLITS), return_counts=True)
    if (divided := divided[counts > 1]).size:
        firsts = [int(np.argmax(groups == group)) for group in divided]
        what = "group" if "group" in manifest.table.columns else "image"
        names = [repr(manifest.table[what][row]) for row in firsts]
        raise ManifestError(
            f"{manifest.source}: the rows of one {what} must be given one split, but got several "
            f"for {listed(names)}"
        )


def warn_taken(manifest: Manifest, shares: Floats) -> None:
    """Warn where rows that were stated to train will test; that some validate is usual."""
    if shares[2]:
        warnings.warn(
            f"{manifest.source}: all rows have a split, but none is test, so {shares[2]:.0%} of "
            "the train rows become it. To train on them, set data.splits.test to 0",
            ManifestWarning,
            stacklevel=3,
        )


def warn_single(manifest: Manifest, kinds: Codes, groups: Codes | None) -> None:
    """Warn of classes that no other split than train can have."""
    if not manifest.class_names:
        return
    if groups is not None:
        width = groups.max(initial=0) + 1
        kinds = np.unique(kinds * width + groups) // width  # a group counts once for a class
    counts = np.bincount(kinds, minlength=len(manifest.class_names))
    single = [repr(manifest.class_names[kind]) for kind in np.flatnonzero(counts == 1)]
    if single:
        warnings.warn(
            f"{manifest.source}: classes with one {'sample' if groups is None else 'group'} are "
            f"trained on but never judged: {listed(single)}",
            ManifestWarning,
            stacklevel=3,
        )


def warn_untrained(manifest: Manifest, codes: Codes) -> None:
    """Warn of classes that given splits keep out of train."""
    if not manifest.class_names:
        return
    labels = manifest.table["label"].to_physical().cast(pl.Int64).to_numpy()
    kinds = labels[codes == 0]
    counts = np.bincount(kinds, minlength=len(manifest.class_names))
    absent = [
        repr(name) for name, count in zip(manifest.class_names, counts, strict=True) if not count
    ]
    if absent:
        warnings.warn(
            f"{manifest.source}: classes without a row in train cannot be learned: "
            f"{listed(absent)}",
            ManifestWarning,
            stacklevel=3,
        )


def refuse_empty(manifest: Manifest, codes: Codes, shares: Floats, groups: Codes | None) -> None:
    """Refuse splits that were to have rows, but could not."""
    empty = [split for split in range(3) if shares[split] > 0 and not (codes == split).any()]
    if not empty:
        return
    names = listed([f"{SPLITS[split]} ({shares[split]:.3g} of the rows)" for split in empty])
    settings = " and ".join(f"data.splits.{SPLITS[split]}" for split in empty)
    have = f"{codes.size} rows"
    if groups is not None:
        have += f" in {groups.max(initial=-1) + 1} groups, which are never divided"
    raise ManifestError(
        f"{manifest.source}: every split must have a row, and every class one in train, but got "
        f"none for {names} from {have}; add data or set {settings} to 0"
    )
