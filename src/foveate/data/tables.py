"""Tables of samples: CSV, Parquet and dataframes, of which only the named columns are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from foveate.config.settings import DataConfig
from foveate.data.csv_form import CsvForm
from foveate.data.listing import METADATA_PREFIX, Listing, as_metadata, as_text, refuse
from foveate.errors import ManifestError, listed, nearest

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")

_BLANK = "\0blank"  # no CSV has a column of this name; true where a line holds nothing at all
_TEXT = ("image", "label", "mask", "group", "split")


def read_table(
    source: Any,
    config: DataConfig,
    root: str | Path | None = None,
    with_targets: bool = True,
) -> Listing:
    """Read the columns that a configuration names from a table.

    Args:
        source: Path of a CSV, TSV or Parquet file, or a dataframe that speaks Arrow (polars,
            pandas, pyarrow).
        config: Names of the columns.
        root: Folder that relative paths start from; the file's own folder, or the working
            directory for a dataframe, when not given.
        with_targets: Whether there must be labels or masks; else none are read.

    Returns:
        The table's samples. Rows of a CSV count as lines of the file, of which the header is
        line 1 (a line break inside a quoted field is not counted); other rows count from 0.
        Blank lines of a CSV are skipped.

    Raises:
        ManifestError: If the file cannot be read or a named column does not exist.
    """
    is_file = isinstance(source, str | Path)
    path = existing_path(source) if is_file else None
    title = str(source) if is_file else "the dataframe"
    form = _form(path) if path is not None else None
    names = _names(source, path, form)
    chosen = _choose(names, title, config, with_targets)
    wanted = list(dict.fromkeys(chosen.values()))
    if path is None:
        raw = _narrowed(source, wanted)
    else:
        text = {chosen[ours] for ours in chosen if ours in _TEXT}
        raw = _read_file(path, form, wanted, [*text, *config.columns.categorical])
    is_blank = raw.drop_in_place(_BLANK) if form is not None else None
    frame = _typed(raw, chosen, title, config).with_row_index("row", 0 if form is None else 2)
    if is_blank is not None:
        frame = frame.filter(~is_blank)
    start = Path(root) if root is not None else (path.parent if path is not None else Path())
    paths = [_below(frame[column], start) for column in ("image", "mask") if column in chosen]
    word = "row" if form is None else "line"
    return Listing(frame.with_columns(paths), start.resolve(), title, chosen, word)


def existing_path(source: str | Path) -> Path:
    """Check that a file or folder is there.

    Args:
        source: Its path.

    Returns:
        The same path.

    Raises:
        ManifestError: If there is nothing at this path; the message names the nearest neighbour.
    """
    path = Path(source)
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise ManifestError(
            f"there is no file or folder {str(source)!r}.{nearest(path.name, beside)}"
        )
    return path


def _form(path: Path) -> CsvForm | None:
    """Look how a table is written; None where it is Parquet."""
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise ManifestError(
            f"a table must be a {listed(TABLE_SUFFIXES)} file, but got {str(path)!r}"
        )
    return None if suffix == ".parquet" else CsvForm.of(path)


def _choose(
    names: Sequence[str], source: str, config: DataConfig, with_targets: bool
) -> dict[str, str]:
    """Map our column names to the table's, or tell all that is wrong with them."""
    label, mask, problems = config.label, config.mask, []
    if with_targets and label is None and mask is None:
        label = "label" if "label" in names else None
        mask = "mask" if label is None and "mask" in names else None
        if label is None and mask is None:
            problems.append(
                f"{source} has neither a column 'label' nor 'mask'; it has: {_quoted(names)}. "
                "Name the target column with data.label or data.mask"
            )
    stated = {"image": config.image, "label": label, "mask": mask, "group": config.group}
    stated |= {"split": config.split, "weight": config.weight}
    chosen = {ours: theirs for ours, theirs in stated.items() if theirs is not None}
    taken = {theirs: ours for ours, theirs in chosen.items() if ours != "group"}
    for name in config.metadata:
        if name in taken:
            problems.append(f"column {name!r} is the {taken[name]}, so it cannot be metadata too")
        if METADATA_PREFIX + name in chosen:
            problems.append(f"column {name!r} must be named once in data.metadata, but got two")
        chosen[METADATA_PREFIX + name] = name
    roles = {name: role.partition(".")[0] for role, name in reversed(chosen.items())}
    problems += [
        f"column {name!r} (data.{roles[name]}) is not in {source}; it has: {_quoted(names)}."
        f"{nearest(name, names)}"
        for name in dict.fromkeys(chosen.values())
        if name not in names
    ]
    refuse(problems)
    return chosen


def _quoted(names: Sequence[str]) -> str:
    """List column names; quotes show white space that belongs to a name."""
    return listed([repr(name) for name in names], 12)


def _names(source: Any, path: Path | None, form: CsvForm | None) -> list[str]:
    """Read the column names of a table and no more."""
    if path is not None:
        try:
            return _scan(path, form, [], rows_to_infer=0).collect_schema().names()
        except pl.exceptions.PolarsError as error:
            raise ManifestError(f"{path} cannot be read: {error}") from error
    if not hasattr(source, "__arrow_c_stream__"):
        raise ManifestError(
            "a manifest is made from a folder, a file or a dataframe (polars, pandas, pyarrow), "
            f"but got {type(source).__name__}"
        )
    # pyarrow calls columns what others call their contents.
    return [str(name) for name in getattr(source, "column_names", None) or source.columns]


def _scan(
    path: Path, form: CsvForm | None, text: Sequence[str], rows_to_infer: int | None
) -> pl.LazyFrame:
    if form is None:
        return pl.scan_parquet(path, glob=False)
    return pl.scan_csv(
        path,
        separator=form.separator,
        infer_schema_length=rows_to_infer,
        schema_overrides=dict.fromkeys(text, pl.String),
        glob=False,
    )


def _read_file(
    path: Path, form: CsvForm | None, wanted: Sequence[str], text: Sequence[str]
) -> pl.DataFrame:
    if form is not None:
        form.require_once(wanted)
    try:
        # `text` keeps labels such as "01" as they are written.
        frame = _scan(path, form, [n for n in text if n in wanted], None)
        if form is None:
            return frame.select(wanted).collect()
        is_blank = pl.all_horizontal(pl.all().is_null()).alias(_BLANK)
        return frame.with_columns(is_blank).select([*wanted, _BLANK]).collect()
    except pl.exceptions.PolarsError as error:
        reason = (form and form.problem()) or str(error).splitlines()[0]
        raise ManifestError(f"{path} cannot be read: {reason}") from error


def _narrowed(source: Any, wanted: list[str]) -> pl.DataFrame:
    """Take columns of a dataframe into polars; other columns need not be convertible."""
    try:
        # pandas has no `select`, but may have a column of that name.
        has_select = hasattr(type(source), "select")
        return pl.DataFrame(source.select(wanted) if has_select else source[wanted]).select(wanted)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise ManifestError(
            f"columns {listed(wanted, 12)} of the dataframe must each hold one type: {error}"
        ) from error


def _typed(
    raw: pl.DataFrame, chosen: dict[str, str], source: str, config: DataConfig
) -> pl.DataFrame:
    columns, problems = [], []
    for ours, theirs in chosen.items():
        is_text = ours in _TEXT or (
            ours.startswith(METADATA_PREFIX) and theirs in config.columns.categorical
        )
        try:
            columns.append((as_text if is_text else as_metadata)(raw[theirs]).alias(ours))
        except ManifestError as error:
            problems.append(f"{source}: {error}")
    refuse(problems)
    return pl.DataFrame(columns)


def _below(paths: pl.Series, root: Path) -> pl.Series:
    """Make paths relative to the root where they lie under it."""
    if os.sep == "\\":
        paths = paths.str.replace_all("\\", "/", literal=True)
    folders = dict.fromkeys((root.absolute(), root.resolve()))
    for prefix in (*(f"{folder.as_posix().rstrip('/')}/" for folder in folders), "./"):
        # A million paths are copied only where there is something to take away.
        if paths.str.starts_with(prefix).any():
            paths = paths.str.strip_prefix(prefix)
    return paths
