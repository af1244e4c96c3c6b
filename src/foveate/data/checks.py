"""What must hold of a listing before it is a manifest; all that does not is told at once."""

from __future__ import annotations

import bisect
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from foveate.data.listing import SPLIT_WORDS, SPLITS, Listing, refuse
from foveate.data.tree import IMAGE_SUFFIXES
from foveate.errors import listed, nearest


class ManifestWarning(UserWarning):
    """The data is usable, but something about it is probably a mistake."""


def checked(listing: Listing) -> pl.DataFrame:
    """Check all samples and bring their columns into a manifest's types.

    Args:
        listing: What the source lists.

    Returns:
        The listing's frame without `row`; `label` is an Enum of the sorted class names, `split`
        an Enum of the three splits, `weight` Float32.

    Raises:
        ManifestError: If a value is missing or impossible, a file does not exist, a file has two
            targets, or there are fewer than two classes. All problems are told at once.
    """
    frame = listing.frame
    problems = [] if frame.height else [f"{listing.source} must list samples, but got no row"]
    for column in ("image", "label", "mask", "group"):
        if column in frame.columns and frame[column].has_nulls():
            rows = listing.rows(frame[column].is_null())
            problems.append(
                f"{listing.title(column)}: every row must have a value, but got none in {rows}"
            )
    problems += _split_problems(listing) + _weight_problems(listing) + _conflicts(listing)
    problems += _class_problems(listing)
    for column in ("image", "mask"):
        if column in frame.columns and not listing.files_seen:
            problems += _missing_files(listing, column)
    refuse(problems)
    return _in_types(frame)


def warn_spellings(table: pl.DataFrame, source: str, stacklevel: int) -> None:
    """Warn of class names that differ only in case, white space or underscores.

    Args:
        table: A manifest's table.
        source: What the warning calls the table.
        stacklevel: Frames between this function and the user's call.
    """
    if "label" not in table.columns:
        return
    counts = dict(table["label"].cast(pl.String).value_counts().iter_rows())
    alike = defaultdict(list)
    for name in sorted(counts):
        alike[re.sub(r"[\s_]+", "", name).casefold()].append(f"{name!r} ({counts[name]})")
    if twins := [" and ".join(names) for names in alike.values() if len(names) > 1]:
        warnings.warn(
            f"{source}: labels that look alike are different classes: {listed(twins)}; "
            "spell them alike if they are one",
            ManifestWarning,
            stacklevel=stacklevel + 1,
        )


def warn_left_out(others: Counter[str], source: str, stacklevel: int) -> None:
    """Warn of files that are left out because of what they are called.

    Args:
        others: How many there are, by suffix.
        source: What the warning calls their folder.
        stacklevel: Frames between this function and the user's call.
    """
    if others:
        warnings.warn(
            f"{source}: files that are not called images are left out: {in_words(others)}. "
            f"Images are {', '.join(sorted(IMAGE_SUFFIXES))}",
            ManifestWarning,
            stacklevel=stacklevel + 1,
        )


def in_words(others: Counter[str], before: str = "") -> str:
    """Name suffixes and how many files have each, the most first; nothing where there are none."""
    told = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in others.most_common()]
    return f"{before}{listed(told)}" if told else ""


def _in_types(frame: pl.DataFrame) -> pl.DataFrame:
    types: dict[str, pl.DataType] = {}
    if "label" in frame.columns:
        types["label"] = pl.Enum(frame["label"].unique().sort())
    if "split" in frame.columns:
        split = frame["split"].str.strip_chars().str.to_lowercase()
        frame = frame.with_columns(split.replace(SPLIT_WORDS))
        types["split"] = pl.Enum(SPLITS)
    if "weight" in frame.columns:
        types["weight"] = pl.Float32()
    return frame.drop("row").cast(types)  # type: ignore[arg-type]


def _split_problems(listing: Listing) -> list[str]:
    if "split" not in listing.frame.columns:
        return []
    words = listing.frame["split"].str.strip_chars().str.to_lowercase()
    bad = words.is_not_null() & ~words.is_in(list(SPLIT_WORDS))
    if not bad.any():
        return []
    return [
        f"{listing.title('split')}: must be train, validation, test or empty, but got "
        f"{listing.cells('split', bad)}"
    ]


def _weight_problems(listing: Listing) -> list[str]:
    if "weight" not in listing.frame.columns:
        return []
    weights = listing.frame["weight"].cast(pl.Float64, strict=False).cast(pl.Float32)
    bad = ~(weights.is_finite() & (weights >= 0)).fill_null(False)
    if not bad.any():
        return []
    return [
        f"{listing.title('weight')}: must be a finite number, 0 or more, but got "
        f"{listing.cells('weight', bad)}"
    ]


def _conflicts(listing: Listing) -> list[str]:
    """Tell images that appear with two different targets; plain repetitions are fine."""
    frame = listing.frame
    if not frame["image"].is_duplicated().any():
        return []
    problems = []
    for column in ("label", "mask"):
        if column not in frame.columns:
            continue
        bad = frame.select(pl.col(column).n_unique().over("image") > 1).to_series()
        bad &= frame["image"].is_not_null()
        if bad.any():
            pairs = frame.filter(bad).sort("image", "row")
            shown = [
                f"{image!r} is {value!r} in {listing.row_word} {row}"
                for image, value, row in pairs.select("image", column, "row").iter_rows()
            ]
            problems.append(
                f"{listing.title(column)}: an image must have one {column}, but got "
                f"{listed(shown)}"
            )
    return problems


def _class_problems(listing: Listing) -> list[str]:
    frame = listing.frame
    if "label" not in frame.columns or "mask" in frame.columns:
        return []
    names = frame["label"].drop_nulls().unique()
    if len(names) != 1:
        return []
    return [f"{listing.source} needs at least two classes, but got only {names.item()!r}"]


def _missing_files(listing: Listing, column: str) -> list[str]:
    """Tell local files that do not exist; each folder is listed once instead of asked by file."""
    paths = listing.frame[column]
    distinct = paths.drop_nulls().unique(maintain_order=True)
    local = distinct.filter(~distinct.str.contains("://", literal=True))
    existing: list[str] = []
    for folder in local.str.replace(r"[^/]*$", "").unique().sort():
        existing += [folder + name for name in _file_names(listing.root / folder)]
    missing = local.filter(~local.is_in(pl.Series(existing, dtype=pl.String).implode()))
    if missing.is_empty():
        return []
    first = missing[0]
    folder, _, name = first.rpartition("/")
    names = _file_names(listing.root / folder)
    hint = f" There is no file in {str(listing.root / folder)!r}."
    if names:
        hint = nearest(name, _neighbours(name, names))
    return [
        f"{listing.title(column)}: files must exist below {str(listing.root)!r}, but got none for "
        f"{listing.cells(column, paths.is_in(missing.implode()))}.{hint}"
    ]


def _file_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _neighbours(name: str, names: Sequence[str], reach: int = 200) -> list[str]:
    """Names near one in the alphabet: edit distances to all of a folder would take minutes."""
    ordered = sorted(names, key=str.lower)
    place = bisect.bisect(ordered, name.lower(), key=str.lower)
    return ordered[max(0, place - reach) : place + reach]
