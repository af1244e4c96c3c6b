"""The index of a packed dataset: which image and mask lie where in which shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.config.settings import DataConfig
from foveate.data.listing import METADATA_PREFIX, SPLITS
from foveate.data.places import Member, is_remote
from foveate.data.remote import fetch
from foveate.data.tables import existing_path
from foveate.errors import ManifestError, SampleError, listed, nearest

INDEX_NAME = "index.parquet"
"""What the index is called, beside the shards."""

_FORMAT = "foveate.packed"
ROLES = ("label", "mask", "group", "split", "weight")
"""Columns that settings may name."""
PLACES = ("shard", "image_offset", "image_length", "mask_offset", "mask_length")
"""Columns of a packed manifest that say where its files lie."""


def is_packed(source: str | Path) -> bool:
    """Whether a path is that of a packed dataset: a folder with an index, or the index.

    Args:
        source: A path that exists.

    Raises:
        ManifestError: The index is damaged.
    """
    path = Path(source) / INDEX_NAME if Path(source).is_dir() else Path(source)
    if path.suffix != ".parquet" or not path.is_file():
        return False
    try:
        return _FORMAT in pl.read_parquet_metadata(path)
    except pl.exceptions.PolarsError as error:
        if path.name != INDEX_NAME:
            return False
        raise ManifestError(
            f"{path} cannot be read: {error}. Copy it again, or delete it and pack into its "
            "folder again, which keeps the shards that are whole"
        ) from error


def read_packed(source: str | Path, config: DataConfig) -> tuple[pl.DataFrame, Path]:
    """Read the index of a packed dataset.

    Args:
        source: Its folder or index file; a path or a URI.
        config: `metadata` names columns to keep, all when empty; `label` or `mask` one of both,
            where both were packed. Columns named must be those that were packed.

    Returns:
        A manifest's table, and the folder of the shards (the working directory for a URI).

    Raises:
        ManifestError: There is no packed dataset, shards are missing or cut short, or the columns
            named are not in it.
    """
    folder, content = _load(source)
    try:
        about = json.loads(pl.read_parquet_metadata(BytesIO(content)).get(_FORMAT, "null"))
        table = pl.read_parquet(BytesIO(content))
    except pl.exceptions.PolarsError:  # such as a page that a server gives for whatever is asked
        about = None
    if about is None:
        raise ManifestError(f"{source} must be what foveate pack wrote, but got another file")
    types: dict[str, Any] = {"label": pl.Enum(about["class_names"]), "split": pl.Enum(SPLITS)}
    table = table.cast({name: kind for name, kind in types.items() if name in table.columns})
    if is_remote(folder):
        table = table.with_columns(shard=f"{folder}/" + table["shard"].cast(pl.String))
    else:
        _require_shards(table, Path(folder))
    shards = table["shard"].cast(pl.Enum(table["shard"].cast(pl.String).unique().sort()))
    kept = _chosen(table.columns, about["names"], str(source), config)
    return table.with_columns(shards).select(kept), (
        Path() if is_remote(folder) else Path(folder)
    ).resolve()


def read_index(path: str | Path) -> pl.DataFrame:
    """Read all columns of an index.

    Args:
        path: The index file.

    Raises:
        ManifestError: There is none.
    """
    if not is_packed(existing_path(path)):
        raise ManifestError(f"{path} must be what foveate pack wrote, but got another file")
    return pl.read_parquet(path, glob=False)


def write_index(
    table: pl.DataFrame, class_names: tuple[str, ...], names: Mapping[str, str]
) -> bytes:
    """Write the index of a packed dataset.

    Args:
        table: A manifest's columns, and `key`, `shard`, and offset, length and checksum of the
            image and the mask.
        class_names: Those of the manifest.
        names: What the data called the columns.

    Returns:
        A Parquet file.
    """
    about = {"version": 1, "class_names": list(class_names), "names": dict(names)}
    content = BytesIO()
    table.write_parquet(content, metadata={_FORMAT: json.dumps(about)})
    return content.getvalue()


def members(
    table: pl.DataFrame, rows: NDArray[np.integer[Any]], root: Path, column: str
) -> list[Member]:
    """Say where images or masks lie.

    Args:
        table: That of a packed manifest.
        rows: Some of its rows, (n,).
        root: Folder of shards that are no URIs.
        column: `image` or `mask`.
    """
    told = table.select("shard", f"{column}_offset", f"{column}_length", column)[rows]
    return [
        Member(shard if is_remote(shard) else f"{root}/{shard}", offset, length, name)
        for shard, offset, length, name in told.iter_rows()
    ]


def _load(source: str | Path) -> tuple[str, bytes]:
    """Folder and content of the index."""
    place = str(source)
    if not place.endswith(".parquet"):
        place = f"{place.rstrip('/')}/{INDEX_NAME}"
    folder = place.rpartition("/")[0] or "."
    if not is_remote(place):
        return folder, Path(place).read_bytes()
    try:
        return folder, fetch(place)
    except SampleError as error:
        raise ManifestError(
            f"{source} must be a packed dataset (see foveate pack), but got: {error}"
        ) from error


def _require_shards(table: pl.DataFrame, folder: Path) -> None:
    ends = [
        pl.max_horizontal(pl.col(f"{column}_offset") + pl.col(f"{column}_length")).max()
        for column in ("image", "mask")
        if f"{column}_offset" in table.columns
    ]
    needed = table.group_by("shard").agg(pl.max_horizontal(ends).alias("end")).sort("shard")
    problems = []
    for shard, end in needed.iter_rows():
        path = folder / shard
        if not path.exists():
            problems.append(f"{shard} is missing")
        elif path.stat().st_size < end:
            problems.append(f"{shard} has {path.stat().st_size} bytes instead of {end} or more")
    if problems:
        raise ManifestError(
            f"{folder} must hold all its shards, but {listed(problems)}; copy them again"
        )


def _chosen(
    columns: list[str], names: Mapping[str, str], source: str, config: DataConfig
) -> list[str]:
    """Columns of a manifest's table that the settings ask for."""
    problems = []
    for role in ROLES:
        wanted = getattr(config, role)
        if wanted is not None and wanted != names.get(role):
            allowed = f"be {names[role]!r} or " if role in names else ""
            problems.append(f"data.{role} must {allowed}not be set, but got {wanted!r}")
    has = [name.removeprefix(METADATA_PREFIX) for name in columns if METADATA_PREFIX in name]
    problems += [
        f"data.metadata may name {listed(has or ['nothing'], 20)}, but got {name!r}."
        f"{nearest(name, has)}"
        for name in config.metadata
        if name not in has
    ]
    if problems:
        raise ManifestError(
            f"{source} was packed with other columns:\n- "
            + "\n- ".join(problems)
            + "\nPack it again to use others."
        )
    unwanted = set()
    if {"label", "mask"} <= set(columns) and bool(config.label) != bool(config.mask):
        unwanted = {"mask", "mask_offset", "mask_length"} if config.label else {"label"}
    kept = [
        name for name in columns if name in ("image", *PLACES, *ROLES) and name not in unwanted
    ]
    return kept + [METADATA_PREFIX + name for name in config.metadata or has]
