"""What a source lists before it is checked, and the ways its problems are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from foveate.errors import ManifestError, listed

SPLITS = ("train", "validation", "test")
"""Names of the splits; a split's code is its position here."""

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Lower-case spellings of split columns and folders, and the split each means."""

METADATA_PREFIX = "metadata."


@dataclass(frozen=True, eq=False)
class Listing:
    """Samples as a source names them, not yet checked.

    Attributes:
        frame: One row a sample. `row` (UInt32) counts the source's own rows; `image` and, where
            the source has them, `label`, `mask`, `group` and `split` are String; `weight` and
            each ``metadata.<name>`` are Float64 or String. Null is missing.
        root: Folder that relative paths start from.
        source: What messages call the source.
        names: What the source calls each column of `frame`.
        row_word: What messages call a row of the source: "line" or "row".
        files_seen: Whether the source is the files themselves, so that none can be missing.
    """

    frame: pl.DataFrame
    root: Path
    source: str
    names: dict[str, str]
    row_word: str = "row"
    files_seen: bool = False

    def title(self, column: str) -> str:
        """Say where a column stands, such as ``"patients.csv, column 'age'"``."""
        return f"{self.source}, column {self.names.get(column, column)!r}"

    def rows(self, bad: pl.Series) -> str:
        """Name the rows where a boolean series of shape (rows,) holds."""
        rows = self.frame["row"].filter(bad).to_list()
        return f"{self.row_word}{'s' if len(rows) > 1 else ''} {listed([str(r) for r in rows])}"

    def cells(self, column: str, bad: pl.Series) -> str:
        """Quote a column's values, with their rows, where a boolean series (rows,) holds."""
        found = self.frame.filter(bad)
        pairs = zip(found[column], found["row"], strict=True)
        return listed([f"{value!r} ({self.row_word} {row})" for value, row in pairs])


def refuse(problems: Sequence[str]) -> None:
    """Raise one error that tells all problems.

    Args:
        problems: Complete sentences, each naming its file; none is no error.

    Raises:
        ManifestError: If there is any problem.
    """
    if len(problems) == 1:
        raise ManifestError(problems[0])
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise ManifestError(f"{len(problems)} problems:\n{lines}")


def as_text(series: pl.Series) -> pl.Series:
    """Write every value as text; whole numbers without a decimal point.

    Args:
        series: Values of shape (rows,) of any flat type.

    Returns:
        String series (rows,); empty text and NaN are null.

    Raises:
        ManifestError: If the values are lists, structures or bytes.
    """
    if series.dtype.is_nested() or series.dtype in (pl.Binary, pl.Object):
        raise ManifestError(
            f"column {series.name!r} must hold text or numbers, but got {series.dtype}"
        )
    if series.dtype.is_float() or series.dtype.is_decimal():
        value = pl.col(series.name).cast(pl.Float64).fill_nan(None)
        # Above 2**53 a float no longer tells neighbouring integers apart.
        whole = (value == value.round()) & (value.abs() < 2.0**53)
        text = pl.when(whole).then(value.cast(pl.Int64, strict=False).cast(pl.String))
        return series.to_frame().select(text.otherwise(value.cast(pl.String))).to_series()
    text_series = series.cast(pl.String)
    is_empty = text_series == ""
    return text_series.set(is_empty, None) if is_empty.any() else text_series


def as_metadata(series: pl.Series) -> pl.Series:
    """Bring a metadata column into one of the two types a manifest holds.

    Args:
        series: Values of shape (rows,).

    Returns:
        Numbers as Float64, text, booleans and categories as String, shape (rows,); NaN and empty
        text are null.

    Raises:
        ManifestError: If the column is neither numbers nor text (dates, lists).
    """
    if series.dtype.is_numeric():
        return series.cast(pl.Float64).fill_nan(None)
    if series.dtype.is_temporal():
        raise ManifestError(
            f"column {series.name!r} must hold numbers or text to be metadata, but got "
            f"{series.dtype}; turn it into a number, such as an age in days"
        )
    return as_text(series)
