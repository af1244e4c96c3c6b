"""Metadata columns become arrays: what each holds is learnt from the training split alone.

Numbers leave here raw, NaN where missing: scaling is inside the model. Text leaves as integers, 0
where missing and 1 where the training split had no such text.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.config.settings import ColumnConfig
from foveate.data.checks import ManifestWarning
from foveate.data.listing import METADATA_PREFIX, as_metadata, as_text, refuse
from foveate.data.manifest import Manifest
from foveate.errors import ManifestError, listed, nearest

MISSING = 0
UNKNOWN = 1
FIRST_KNOWN = 2
"""Category codes: the first text of a vocabulary is 2."""

_LARGEST = float(np.finfo(np.float32).max)  # numbers become float32
_SAMPLE = "\0sample"  # no column of a file has this name
_BOOLEANS = {"true", "false"}  # a CSV writes them True or TRUE, and reading it may keep that
_MANY = 1000  # distinct texts above which a column that hardly repeats is an identifier
_SOME = 50  # above which it may be one
_DECIMAL_COMMA = r"^[+-]?\d+,\d+$"


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers.

    Attributes:
        name: What the source calls it.
        mean: Mean of the training split, after the logarithm if `log`.
        deviation: Standard deviation of the same; 1 for a constant column.
        log: Whether the model takes log(1 + x) before it scales.
    """

    name: str
    mean: float
    deviation: float
    log: bool


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of categories.

    Attributes:
        name: What the source calls it.
        vocabulary: Texts of the training split, sorted; the first has code 2.
    """

    name: str
    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class MetadataSchema:
    """What turns metadata columns into arrays, at training and ever after.

    Attributes:
        numeric: Columns of numbers, in the order of the array's columns.
        categorical: Columns of categories, likewise.
    """

    numeric: tuple[NumericColumn, ...]
    categorical: tuple[CategoricalColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the source calls the columns."""
        numeric = [column.name for column in self.numeric]
        return (*numeric, *(column.name for column in self.categorical))

    def arrays(
        self, source: Manifest | pl.DataFrame
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Read the schema's columns.

        Args:
            source: A manifest, or a table whose columns have the schema's names.

        Returns:
            Raw numbers, float32 of shape (rows, numeric columns), NaN where missing; and category
            codes, int32 of shape (rows, categorical columns), 0 where missing, 1 where unknown.

        Raises:
            ManifestError: If a column is not there, or a number is not one, or out of range.
        """
        table = _table(source)
        if lacking := [repr(name) for name in self.names if name not in table.columns]:
            raise ManifestError(
                f"metadata must have the columns the model was trained with, but got no "
                f"{listed(lacking, 12)}; it has: {listed(_data_columns(table), 12)}"
            )
        problems: list[str] = []
        numeric = np.empty((table.height, len(self.numeric)), np.float32)
        for index, column in enumerate(self.numeric):
            values = _numbers(table, column.name, column.log, problems)
            numeric[:, index] = values.fill_null(float("nan")).to_numpy()
        categories = np.empty((table.height, len(self.categorical)), np.int32)
        for index, kind in enumerate(self.categorical):
            categories[:, index] = _codes(as_text(table[kind.name]), kind.vocabulary)
        refuse(problems)
        return numeric, categories

    def to_dict(self) -> dict[str, Any]:
        """Write the schema as lists, texts and numbers that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> MetadataSchema:
        """Read what `to_dict` wrote, also after a passage through JSON."""
        return cls(
            tuple(NumericColumn(**column) for column in value["numeric"]),
            tuple(
                CategoricalColumn(column["name"], tuple(column["vocabulary"]))
                for column in value["categorical"]
            ),
        )


def fit_schema(train: Manifest, columns: ColumnConfig) -> MetadataSchema:
    """Learn from the training split what its metadata columns hold.

    A column is numeric if all its values are numbers, or written as numbers, else categorical;
    what `columns` declares goes before.

    Args:
        train: Rows of the training split.
        columns: Declared kinds.

    Returns:
        Means, deviations and vocabularies.

    Raises:
        ManifestError: If a declaration names no column or does not fit its values, a column has no
            value, or texts are so many that they identify rows. All problems are told at once.
    """
    table = _table(train)
    names = train.metadata_columns
    problems = _declaration_problems(columns, names)
    numeric, categorical = [], []
    for name in names:
        if _is_numeric(table, name, columns, problems):
            numeric.append(_fit_numeric(table, name, name in columns.log, problems))
        else:
            is_stated = name in columns.categorical
            categorical.append(_fit_categorical(table[name], is_stated, train.source, problems))
    refuse([f"{train.source}: {problem}" for problem in problems])
    return MetadataSchema(tuple(numeric), tuple(categorical))


def _table(source: Manifest | pl.DataFrame) -> pl.DataFrame:
    """Metadata by its own names, Float64 or String, beside a column `sample` to name rows by."""
    if isinstance(source, Manifest):
        table = source.table.select(f"^{METADATA_PREFIX}.*$")
        table = table.rename(lambda name: name.removeprefix(METADATA_PREFIX))
        sample = source.table["image"]
    else:
        table = source
        sample = pl.Series([f"row {row}" for row in range(source.height)], dtype=pl.String)
    return pl.DataFrame([sample.alias(_SAMPLE), *table])


def _data_columns(table: pl.DataFrame) -> list[str]:
    return [name for name in table.columns if name != _SAMPLE]


def _declaration_problems(columns: ColumnConfig, names: Sequence[str]) -> list[str]:
    problems = [
        f"data.columns.{kind} must name metadata columns, but got {name!r}; they are: "
        f"{listed(names, 12) if names else 'none'}.{nearest(name, names)}"
        for kind in ("numeric", "categorical", "log")
        for name in getattr(columns, kind)
        if name not in names
    ]
    problems += [
        f"metadata column {name!r} must have one kind, but got both numeric (or log) and "
        "categorical in data.columns"
        for name in columns.categorical
        if name in (*columns.numeric, *columns.log)
    ]
    return problems


def _parsed(series: pl.Series) -> pl.Series:
    """Numbers as Float64, null where missing or not a number, NaN where written so."""
    if series.dtype == pl.String:
        series = series.str.strip_chars()
    return series.cast(pl.Float64, strict=False)


def _is_numeric(
    table: pl.DataFrame, name: str, columns: ColumnConfig, problems: list[str]
) -> bool:
    series = table[name]
    if name in columns.categorical:
        return False
    if name in (*columns.numeric, *columns.log) or series.dtype != pl.String:
        return True
    filled = table.filter(series.is_not_null())
    odd = filled.filter(_parsed(filled[name]).is_null())
    commas = odd[name].str.strip_chars().str.contains(_DECIMAL_COMMA)
    if odd.height and commas.all():
        problems.append(
            f"metadata column {name!r} must hold numbers or categories, but got numbers with a "
            f"decimal comma: {_cells(odd, name)}; write them with a point, or name it in "
            "data.columns.categorical"
        )
        return False
    if odd.height and 2 * odd.height < filled.height:
        problems.append(
            f"metadata column {name!r} must hold numbers or categories, but got numbers and "
            f"{_cells(odd, name)}; leave such cells empty, or name it in data.columns.categorical"
        )
    return not odd.height


def _numbers(table: pl.DataFrame, name: str, log: bool, problems: list[str]) -> pl.Series:
    """Read a column as Float64 with nulls, noting what is no number or out of range."""
    raw = as_metadata(table[name])
    parsed = _parsed(raw)
    no_number = raw.is_not_null() & parsed.is_null()
    values = parsed.fill_nan(None)
    rules = [
        ("must hold numbers", no_number),
        ("must hold finite numbers (of 32 bits)", values.abs() > _LARGEST),
    ]
    if log:
        rules.append(("must be above -1 to pass through log(1 + x)", values <= -1.0))
    for rule, broken in rules:
        if broken.any():
            cells = _cells(table.filter(broken), name)
            problems.append(f"metadata column {name!r} {rule}, but got {cells}")
    return values


def _cells(found: pl.DataFrame, name: str) -> str:
    pairs = zip(found[name], found[_SAMPLE], strict=True)
    return listed([f"{value!r} ({sample})" for value, sample in pairs])


def _fit_numeric(table: pl.DataFrame, name: str, log: bool, problems: list[str]) -> NumericColumn:
    told = len(problems)
    values = _numbers(table, name, log, problems).drop_nulls().to_numpy()
    if not values.size and len(problems) == told:
        problems.append(_no_values(name))
    if len(problems) > told:
        return NumericColumn(name, 0.0, 1.0, log)
    values = np.log1p(values) if log else values
    # Not `std() == 0`: the mean of equal numbers is not always exactly that number.
    deviation = 1.0 if values.min() == values.max() else float(values.std())
    return NumericColumn(name, float(values.mean()), deviation, log)


def _fit_categorical(
    series: pl.Series, is_stated: bool, source: str, problems: list[str]
) -> CategoricalColumn:
    text = as_text(series).drop_nulls()
    vocabulary = text.unique().sort()
    if text.is_empty():
        problems.append(_no_values(series.name))
    if 2 * len(vocabulary) > len(text) and not is_stated:
        told = (
            f"metadata column {series.name!r} must hold categories that come back, but got "
            f"{len(vocabulary)} different texts in {len(text)} rows; if it identifies rows, take "
            "it out of data.metadata, else name it in data.columns.categorical"
        )
        if len(vocabulary) > _MANY:
            problems.append(told)
        elif len(vocabulary) > _SOME:
            warnings.warn(f"{source}: {told}", ManifestWarning, stacklevel=3)
    return CategoricalColumn(series.name, tuple(vocabulary))


def _no_values(name: str) -> str:
    return (
        f"metadata column {name!r} must have values in the train split, but got none; take it "
        "out of data.metadata"
    )


def _codes(text: pl.Series, vocabulary: Sequence[str]) -> NDArray[np.int32]:
    known = {word: FIRST_KNOWN + index for index, word in enumerate(vocabulary)}
    lower = {word.lower(): code for word, code in known.items()}
    if len(lower) == len(known) and lower.keys() <= _BOOLEANS:
        known, text = lower, text.str.to_lowercase()
    codes = text.replace_strict(known, default=UNKNOWN, return_dtype=pl.Int32)
    return codes.set(text.is_null(), MISSING).to_numpy()
