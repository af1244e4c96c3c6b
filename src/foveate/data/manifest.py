"""The manifest: one table, a row a sample, made from a folder, a file or a dataframe.

However the data is described, everything after this module sees one frozen table. It holds paths,
targets and metadata, never pixels, so its memory is about a hundred bytes a row plus the paths.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.config.settings import DataConfig
from foveate.data.checks import checked, warn_spellings
from foveate.data.digest import table_digest
from foveate.data.folders import list_folder, list_mask_folders
from foveate.data.listing import METADATA_PREFIX, SPLITS, Listing
from foveate.data.packed import is_packed, members, read_packed
from foveate.data.places import Place, is_remote
from foveate.data.tables import existing_path, read_table
from foveate.disk import replacing
from foveate.errors import ManifestError

_FORMAT = "foveate.manifest"
_DEFAULTS = DataConfig()


@dataclass(frozen=True, eq=False)
class Manifest:
    """All samples of a dataset, a row each; make one with `read_manifest` or a ``from_`` method.

    Attributes:
        table: Columns `image` (String: relative to `root`, absolute, or a URI), `label` (Enum of
            `class_names`) or `mask` (String, like `image`) or both, and where the data has them
            `group` (String), `split` (Enum of `SPLITS`; null is undecided), `weight` (Float32)
            and ``metadata.<name>`` (Float64 or String; null is missing). Of a packed dataset also
            `shard` (Enum of paths like `image`), and `image_offset`, `image_length` (integers),
            the same for `mask`: `image` and `mask` are then the names of what was packed. Where
            images are read in tiles, the columns of `foveate.data.tiles`.
        root: Absolute folder that relative paths start from.
        source: What messages call the data.
    """

    table: pl.DataFrame
    root: Path
    source: str

    @classmethod
    def from_folder(cls, folder: str | Path, config: DataConfig = _DEFAULTS) -> Manifest:
        """Read class folders, or image and mask folders, or split folders over either.

        Args:
            folder: The folder; its sub-folders say classes, masks and splits.
            config: `image` and `mask` name the image and mask folders.

        Returns:
            Its samples in the order of their paths.

        Raises:
            ManifestError: If the layout is not one of these, or its samples are incomplete.
        """
        return _from_listing(list_folder(existing_path(folder), config))

    @classmethod
    def from_table(
        cls,
        source: Any,
        config: DataConfig = _DEFAULTS,
        root: str | Path | None = None,
    ) -> Manifest:
        """Read a CSV, TSV or Parquet file, or a dataframe (polars, pandas, pyarrow).

        Args:
            source: Path of the file, or the dataframe.
            config: Names of the columns; no others are read.
            root: Folder that relative paths start from; the file's own folder, or the working
                directory for a dataframe, when not given.

        Returns:
            Its samples in its order.

        Raises:
            ManifestError: If columns, values or files are missing or impossible.
        """
        return _from_listing(read_table(source, config, root))

    @classmethod
    def from_mask_folders(
        cls,
        images: str | Path,
        masks: str | Path,
        config: DataConfig = _DEFAULTS,
    ) -> Manifest:
        """Read a folder of images and a folder of masks, paired by name up to the suffix.

        Args:
            images: Folder of images.
            masks: Folder of masks.
            config: Must name no columns.

        Returns:
            Their samples in the order of names.

        Raises:
            ManifestError: If an image or a mask has no partner or more than one.
        """
        folders = existing_path(images), existing_path(masks)
        return _from_listing(list_mask_folders(*folders, config))

    @property
    def num_samples(self) -> int:
        """Number of rows."""
        return self.table.height

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted names of the whole dataset's classes, also in a part of it; may be empty."""
        if "label" not in self.table.columns:
            return ()
        kind = self.table.schema["label"]
        return tuple(kind.categories) if isinstance(kind, pl.Enum) else ()

    @property
    def has_masks(self) -> bool:
        """Whether every sample has a mask."""
        return "mask" in self.table.columns

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Names of the metadata columns, as the source calls them."""
        names = (name for name in self.table.columns if name.startswith(METADATA_PREFIX))
        return tuple(name.removeprefix(METADATA_PREFIX) for name in names)

    @property
    def is_packed(self) -> bool:
        """Whether images and masks lie in shards."""
        return "shard" in self.table.columns

    def image_path(self, row: int) -> str:
        """Give the absolute path, or the URI, of a row's image; a name of it in its shard."""
        return str(self.image_places(np.array([row]))[0])

    def mask_path(self, row: int) -> str:
        """Give what `image_path` gives, for a row's mask."""
        return str(self.mask_places(np.array([row]))[0])

    def image_places(self, rows: NDArray[np.integer[Any]]) -> Sequence[Place]:
        """Say where rows' images lie, for `foveate.data.storage.Storage` to fetch them."""
        return self._places("image", rows)

    def mask_places(self, rows: NDArray[np.integer[Any]]) -> Sequence[Place]:
        """Say where rows' masks lie."""
        return self._places("mask", rows)

    def remote_shards(self) -> NDArray[np.integer[Any]] | None:
        """Number the shard of each row, (rows,), if they lie far away; None if they do not."""
        if not self.is_packed or not self.num_samples or not is_remote(self.table["shard"][0]):
            return None
        return self.table["shard"].to_physical().to_numpy()

    def split(self, name: str) -> Manifest:
        """Take the rows of one split.

        Args:
            name: `train`, `validation` or `test`.

        Returns:
            Its rows, with the class names of the whole.

        Raises:
            ManifestError: If there is no such split, or rows have no splits yet.
        """
        if name not in SPLITS:
            raise ManifestError(f"a split must be one of {', '.join(SPLITS)}, but got {name!r}")
        if "split" not in self.table.columns:
            raise ManifestError(f"{self.source} has no splits yet; call assign_splits first")
        return replace(self, table=self.table.filter(pl.col("split") == name))

    def with_splits(self, codes: NDArray[np.integer[Any]]) -> Manifest:
        """Say the split of each row.

        Args:
            codes: Integers of shape (rows,): 0 train, 1 validation, 2 test.

        Returns:
            The same rows with these splits.
        """
        names = dict(enumerate(SPLITS))
        split = pl.Series("split", codes).replace_strict(names, return_dtype=pl.Enum(SPLITS))
        return replace(self, table=self.table.with_columns(split))

    def take(self, rows: NDArray[np.integer[Any]] | Sequence[int]) -> Manifest:
        """Take rows by position, in the order given.

        Args:
            rows: Integers of shape (n,), from 0 to `num_samples` - 1.

        Returns:
            These rows, with the class names of the whole.
        """
        return replace(self, table=self.table[np.asarray(rows, dtype=np.int64)])

    def digest(self) -> str:
        """Hash everything but `root` and `source`: where the data lies is not what it is.

        Returns:
            64 hexadecimal digits (SHA-256), the same in any process and on any machine.
        """
        return table_digest(self.table, self.class_names)

    def save(self, path: str | Path) -> None:
        """Write a Parquet file that `load` and any Parquet reader can read.

        Args:
            path: The file; an existing one is replaced in one move.
        """
        about = {"version": 1, "root": str(self.root), "source": self.source}
        about |= {"class_names": list(self.class_names)}
        with replacing(Path(path)) as beside:
            self.table.write_parquet(beside, metadata={_FORMAT: json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Read what `save` wrote; image files are not looked for again.

        Args:
            path: The file.

        Returns:
            A manifest of the same digest.

        Raises:
            ManifestError: If the file is not there or `save` did not write it.
        """
        file = existing_path(path)
        try:
            about = json.loads(pl.read_parquet_metadata(file).get(_FORMAT, "null"))
            table = pl.read_parquet(file, glob=False)
        except pl.exceptions.PolarsError as error:
            raise ManifestError(f"{path} cannot be read: {error}") from error
        if about is None:
            raise ManifestError(
                f"{path} must be a file that Manifest.save wrote, but got another Parquet file; "
                "read it with read_manifest"
            )
        if "label" in table.columns:
            table = table.cast({"label": pl.Enum(about["class_names"])})
        if "split" in table.columns:
            table = table.cast({"split": pl.Enum(SPLITS)})
        return cls(table, Path(about["root"]), about["source"])

    def _places(self, column: str, rows: NDArray[np.integer[Any]]) -> Sequence[Place]:
        if self.is_packed:
            return members(self.table, rows, self.root, column)
        paths: list[str] = self.table[column].gather(rows).to_list()
        return [path if is_remote(path) else str(self.root / path) for path in paths]


def read_manifest(source: Any, config: DataConfig = _DEFAULTS) -> Manifest:
    """Read whatever describes a dataset.

    Args:
        source: Path of a folder (see `Manifest.from_folder`), or of a table, or a dataframe (see
            `Manifest.from_table`), or path or URI of what ``foveate pack`` wrote.
        config: Names of columns or folders.

    Returns:
        All samples; splits are what the data gives, if anything.

    Raises:
        ManifestError: If it does not describe a usable dataset; all problems are told at once.
    """
    if isinstance(source, str | Path):
        if is_remote(str(source)) or is_packed(existing_path(source)):
            return Manifest(*read_packed(source, config), str(source))
        if Path(source).is_dir():
            return _from_listing(list_folder(Path(source), config))
    return _from_listing(read_table(source, config))


def _from_listing(listing: Listing) -> Manifest:
    table = checked(listing)
    warn_spellings(table, listing.source, stacklevel=3)
    return Manifest(table, listing.root, listing.source)
