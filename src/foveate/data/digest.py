"""What a table is, in 64 digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import polars as pl


def table_digest(table: pl.DataFrame, class_names: Sequence[str]) -> str:
    """Hash names, types and values of a table's columns.

    Args:
        table: Columns of text, categories, floats and integers.
        class_names: Hashed as well.

    Returns:
        64 hexadecimal digits (SHA-256), the same in any process and on any machine.
    """
    kinds = ["text" if not s.dtype.is_float() else str(s.dtype) for s in table]
    head = [list(zip(table.columns, kinds, strict=True)), tuple(class_names)]
    sha = hashlib.sha256(json.dumps(head).encode())
    for series in table:
        for part in _content(series):
            sha.update(part)
    return sha.hexdigest()


def _content(series: pl.Series) -> tuple[bytes, ...]:
    """Write a column as bytes that no other column of its type has."""
    if series.dtype.is_float():
        kind = "<f4" if series.dtype == pl.Float32 else "<f8"
        return (series.fill_null(float("nan")).to_numpy().astype(kind).tobytes(),)
    text = series.cast(pl.String)
    # Lengths tell ("ab", "c") from ("a", "bc"); no text is as long as a missing one.
    lengths = text.str.len_bytes().fill_null(2**32 - 1).to_numpy().astype("<u4")
    return lengths.tobytes(), "".join(text.drop_nulls()).encode()
