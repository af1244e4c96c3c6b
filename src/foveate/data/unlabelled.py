"""Files without targets, to predict on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from foveate.config.settings import ColumnConfig, DataConfig
from foveate.data.checks import checked, in_words, warn_left_out
from foveate.data.manifest import Manifest, read_manifest
from foveate.data.metadata import MetadataSchema
from foveate.data.packed import is_packed
from foveate.data.tables import TABLE_SUFFIXES, existing_path, read_table
from foveate.data.tree import FolderTree
from foveate.errors import ManifestError, listed

_TARGETS = ("label", "mask", "weight")


def read_unlabelled(
    files: Sequence[Path], config: DataConfig, schema: MetadataSchema | None = None
) -> Manifest:
    """Make a manifest of images whose targets are not known.

    Args:
        files: Images and folders of images, or one table, or one packed dataset.
        config: Names of the columns of a table; its targets are not read.
        schema: Metadata columns that must be there, and their kinds; only a table can hold them.

    Returns:
        A row an image; those of a folder in the order of their paths.

    Raises:
        ManifestError: There is no image, or metadata is missing.
    """
    if len(files) == 1 and is_packed(existing_path(files[0])):
        packed = read_manifest(files[0], DataConfig(metadata=schema.names if schema else ()))
        targets = [name for name in packed.table.columns if name in _TARGETS]
        return replace(packed, table=packed.table.drop(targets))
    tables = [file for file in files if file.suffix.lower() in TABLE_SUFFIXES]
    if tables and len(files) > 1:
        raise ManifestError("Predict on one table, or on images and folders, but got both.")
    if tables:
        categorical = tuple(column.name for column in schema.categorical) if schema else ()
        stated = DataConfig(
            image=config.image,
            metadata=schema.names if schema else (),
            # Kinds are those of training: "01" is no number here if it was none there.
            columns=ColumnConfig(categorical=categorical),
        )
        listing = read_table(tables[0], stated, with_targets=False)
        return Manifest(checked(listing), listing.root, listing.source)
    if schema is not None:
        raise ManifestError(
            "This model reads metadata beside the image: give a CSV or Parquet table with the "
            f"columns {listed([config.image, *schema.names], 20)}, but got image files."
        )
    paths = [path for file in files for path in _images(file)]
    return Manifest(pl.DataFrame({"image": paths}), Path().resolve(), "the files")


def _images(file: Path) -> list[str]:
    if not existing_path(file).is_dir():
        return [str(file.resolve())]
    tree, found, others = FolderTree(), list[str](), Counter[str]()
    waiting, seen = [file], set[Path]()
    while waiting:
        folder = waiting.pop()
        if (real := folder.resolve()) in seen:  # links may lead in a circle
            continue
        seen.add(real)
        folders, images = tree.entries(folder)
        waiting += [folder / name for name in folders]
        found += [str((folder / name).resolve()) for name in images]
        others += tree.others(folder)
    if not found:
        raise ManifestError(
            f"The folder {str(file)!r} holds no images{in_words(others, ', only ')}."
        )
    warn_left_out(others, str(file), stacklevel=5)
    return sorted(found)
