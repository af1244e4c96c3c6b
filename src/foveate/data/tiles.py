"""Where tiles lie in images, fixed or drawn; rows of a manifest become rows of tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED
from foveate.errors import ConfigError

NUM_DRAWS = 5
"""Uniform numbers that `random_tile` takes."""

_CELLS = 4  # along each side of a tile: how exactly it is known where a class is
_HEADER_BYTES = 64  # at most, of a decoded image in the cache

Size = tuple[int, int]


def with_sizes(manifest: Manifest, sizes: Sequence[Size] | NDArray[np.integer]) -> Manifest:
    """Add how large the images are, which the other functions go by.

    Args:
        manifest: Rows of images.
        sizes: (height, width) of each in pixels; 0 where it is not known.
    """
    height, width = np.asarray(sizes, np.int32).reshape(-1, 2).T
    return replace(manifest, table=manifest.table.with_columns(height=height, width=width))


def visits(manifest: Manifest, tile: Size) -> Manifest:
    """Repeat each row as often as tiles cover its image; where they lie is drawn at each visit.

    Args:
        manifest: Rows of images `with_sizes`.
        tile: (height, width) in pixels.

    Returns:
        Rows with `tile_image`, the number of the row that they come from.
    """
    return _repeated(manifest, [len(_grid(*size, *tile, None)) for size in _sizes(manifest)])


def grid(manifest: Manifest, tile: Size, overlap: float | None = None) -> Manifest:
    """Make a row of every tile of a grid over each image.

    Args:
        manifest: Rows of images `with_sizes`.
        tile: (height, width) in pixels.
        overlap: Least share of its side that a tile has in common with the next one; tiles then
            stay inside the image where it is large enough. When not given, each pixel lies in
            one tile, and the last tiles reach beyond the image.

    Returns:
        Rows with `tile_image`, as `visits`, and `tile_top` and `tile_left` in pixels; the tiles
        of an image follow one another from top to bottom, then from left to right.
    """
    places = [_grid(*size, *tile, overlap) for size in _sizes(manifest)]
    rows = _repeated(manifest, [len(each) for each in places])
    top, left = np.concatenate(places).T if places else np.empty((2, 0), np.int32)
    return replace(rows, table=rows.table.with_columns(tile_top=top, tile_left=left))


def count(manifest: Manifest, tile: Size, overlap: float | None = None) -> int:
    """Say how many rows `grid` would give."""
    return sum(len(_grid(*size, *tile, overlap)) for size in _sizes(manifest))


@dataclass(frozen=True, eq=False)
class Presence:
    """Where in an image the classes are.

    Attributes:
        cell: (height, width) of the cells of a grid over the image, in pixels.
        cells: Of each class that is there, the (row, column) of the cells that hold it, int32
            (cells, 2).
    """

    cell: Size
    cells: tuple[NDArray[np.int32], ...]


def cell_size(tile: Size) -> Size:
    """Give the (height, width) of the cells of `Presence` for a tile, in pixels."""
    return max(tile[0] // _CELLS, 1), max(tile[1] // _CELLS, 1)


def find_classes(bands: Iterable[NDArray[np.uint8]], cell: Size) -> Presence:
    """Look where in an image its classes are.

    Args:
        bands: Class ids of the image from top to bottom, uint8 (cell height, width) each, the
            last one may be lower; `IGNORED` is no class.
        cell: (height, width) in pixels.
    """
    present = []
    for band in bands:
        columns = np.arange(band.shape[1]) // cell[1]
        pairs = columns * 256 + band
        counts = np.bincount(pairs.ravel(), minlength=(columns[-1] + 1) * 256)
        present.append(counts.reshape(-1, 256) > 0)
    stacked = np.stack(present)  # (rows, columns, 256)
    found = np.flatnonzero(stacked.any(axis=(0, 1)))
    cells = (np.argwhere(stacked[..., id_]).astype(np.int32) for id_ in found if id_ != IGNORED)
    return Presence(cell, tuple(cells))


def random_tile(
    size: Size, tile: Size, draws: Sequence[float], presence: Presence | None = None
) -> tuple[int, int]:
    """Draw the place of a tile in an image.

    Args:
        size: (height, width) of the image in pixels.
        tile: (height, width) in pixels.
        draws: `NUM_DRAWS` uniform numbers, 0 to below 1.
        presence: Where the classes are. Every other tile then holds a whole cell of one of them,
            each class and each of its cells as likely as the others; all others, and all when
            not given, lie anywhere.

    Returns:
        (top, left) in pixels; the tile is inside the image where that is large enough.
    """
    lows, highs = [0, 0], [max(side - length, 0) for side, length in zip(size, tile, strict=True)]
    if presence is not None and presence.cells and draws[0] < 0.5:
        cells = presence.cells[int(draws[1] * len(presence.cells))]
        cell = cells[int(draws[2] * len(cells))].tolist()
        for axis, length in enumerate(presence.cell):
            begin = cell[axis] * length
            end = min(begin + length, size[axis])
            lows[axis] = max(end - tile[axis], 0)
            highs[axis] = min(begin, highs[axis])
    top, left = (
        low + int(draw * (high - low + 1))
        for low, high, draw in zip(lows, highs, draws[3:5], strict=True)
    )
    return top, left


def require_room(manifest: Manifest, cache_bytes: int) -> None:
    """Check that the largest image can be kept decoded: else every tile would decode it anew.

    Args:
        manifest: Rows of images `with_sizes`.
        cache_bytes: `loader.cache`.

    Raises:
        ConfigError: It cannot.
    """
    num_bytes = _decoded_bytes(manifest)
    if num_bytes.size and (largest := int(num_bytes.max())) > cache_bytes:
        path = manifest.image_path(int(num_bytes.argmax()))
        needed = -(-largest // 2**20)
        raise ConfigError(
            f"loader.cache must hold the largest decoded image, {needed} MiB of {path}, but got "
            f"{cache_bytes / 2**20:,.0f} MiB. Set it to {needed}MiB or, better, to several times "
            "that."
        )


def images_at_once(manifest: Manifest, cache_bytes: int) -> int | None:
    """Say of how many images tiles may be mixed so that each is decoded but once an epoch.

    Args:
        manifest: Rows of `visits`.
        cache_bytes: `loader.cache`.

    Returns:
        Their number; None where all fit, or sizes are not known.
    """
    if not {"height", "tile_image"} <= set(manifest.table.columns):
        return None
    images = manifest.table.unique("tile_image")
    num_bytes = _decoded_bytes(replace(manifest, table=images))
    if num_bytes.sum() <= cache_bytes:
        return None
    # Half of it: the images that follow come while the last tiles of these are being read.
    return max(cache_bytes // 2 // int(num_bytes.max()), 1)


def _decoded_bytes(manifest: Manifest) -> NDArray[np.int64]:
    sizes = manifest.table.select("height", "width").to_numpy().astype(np.int64)
    return sizes.prod(axis=1) * (4 if manifest.has_masks else 3) + _HEADER_BYTES


def _sizes(manifest: Manifest) -> Iterator[Size]:
    return manifest.table.select("height", "width").iter_rows()


def _repeated(manifest: Manifest, times: Sequence[int]) -> Manifest:
    images = np.repeat(np.arange(manifest.num_samples, dtype=np.uint32), times)
    rows = manifest.take(images)
    return replace(rows, table=rows.table.with_columns(tile_image=pl.Series(images)))


@lru_cache(maxsize=1024)
def _grid(
    height: int, width: int, tile_height: int, tile_width: int, overlap: float | None
) -> NDArray[np.int32]:
    """(top, left) of all tiles of an image, int32 (tiles, 2)."""
    tops, lefts = _starts(height, tile_height, overlap), _starts(width, tile_width, overlap)
    return np.array(list(product(tops, lefts)), np.int32)


def _starts(length: int, tile: int, overlap: float | None) -> list[int]:
    """Where tiles begin along one side; evenly spread where they overlap."""
    if length <= tile:
        return [0]
    if overlap is None:
        return list(range(0, length, tile))
    most = max(int(tile * (1 - overlap)), 1)  # pixels from one beginning to the next
    gaps = -(-(length - tile) // most)
    return [round(number * (length - tile) / gaps) for number in range(gaps + 1)]
