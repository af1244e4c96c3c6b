"""Tiles of images far larger than a model's input: each file is decoded once, then cut."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.config.settings import DecodeConfig
from foveate.config.tiles import TilesConfig
from foveate.data.cache import Parts
from foveate.data.decode import decode_image, decode_pair
from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED, encode_mask
from foveate.data.places import Place, is_remote
from foveate.data.storage import Storage
from foveate.data.tiles import Presence, cell_size, find_classes, random_tile
from foveate.errors import ConfigError, SampleError

_HEADER = struct.Struct("<II")  # height and width; then the strips of the image, then of the mask
_STRIP = 256  # pixels: wider ones are read in vain at the edges of tiles, narrower ones take time
_KNOWN_IMAGES = 1024  # of which it is remembered where the classes are, some 20 KiB each
_decoding = threading.Lock()  # an image may take a good part of the memory while it is decoded


class TileReader:
    """Cuts tiles out of the images of a manifest, at full resolution; threads may share one.

    What a file decodes to is kept in the cache of the storage, and windows of it are read from
    there, so that memory does not depend on how large images are: save while one of them is
    decoded, and never two at a time in a process.

    Args:
        manifest: Rows of `foveate.data.tiles.grid`, whose tiles lie where they say; or others,
            whose tiles are drawn.
        tiles: Size of the tiles, and how they are drawn.
        decode: From file to pixels.
        encode: From mask values (H, W) to class ids, both uint8; None leaves them as they are.
        storage: Gets the files, and keeps what they decode to.

    Raises:
        ConfigError: The tiles have no size.
    """

    def __init__(
        self,
        manifest: Manifest,
        tiles: TilesConfig,
        decode: DecodeConfig,
        encode: Callable[[Any], NDArray[Any]] | None,
        storage: Storage,
    ) -> None:
        if tiles.size is None:
            raise ConfigError("Tiles must have a size (data.tiles), but got none.")
        self._arguments = manifest, tiles, decode, encode, storage
        self._manifest, self._decode, self._encode = manifest, decode, encode
        self._storage, self._size = storage, tiles.size
        is_fixed = "tile_top" in manifest.table.columns
        places = manifest.table.select("tile_top", "tile_left") if is_fixed else None
        self._places = places.to_numpy() if places is not None else None
        self._finds_classes = tiles.balanced and manifest.has_masks and not is_fixed
        self._presence = lru_cache(maxsize=_KNOWN_IMAGES)(self._find_classes)
        self._failures: dict[str, str] = {}

    def __reduce__(self) -> tuple[type[TileReader], tuple[Any, ...]]:
        return TileReader, self._arguments  # another process remembers for itself

    def read(
        self, row: int, image: Place, mask: Place | None, draws: Sequence[float]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Cut the tile of a row.

        Args:
            row: Its number.
            image: Where its image lies.
            mask: Where its mask lies, if there are masks.
            draws: Uniform numbers that say where the tile lies, see
                `foveate.data.tiles.random_tile`; not looked at where the row says it.

        Returns:
            Image, uint8 (height, width, 3), and class ids, uint8 (height, width), if there are
            masks. Beyond the image it is mirrored, and its ids are `IGNORED`.

        Raises:
            SampleError: A file cannot be used; the message names it.
        """
        with self._open(image, mask) as decoded:
            if self._places is not None:
                top, left = self._places[row].tolist()
            else:
                presence = self._presence(image, mask) if self._finds_classes else None
                top, left = random_tile(decoded.size, self._size, draws, presence)
            box = top, left, *self._size
            pixels = decoded.image(*box)
            ids = None if mask is None else decoded.mask(*box)
        if ids is not None:
            ids = encode_mask(ids, str(mask), self._encode)
        return _padded(pixels, ids, self._size)

    def ids(self, row: int, top: int, height: int) -> NDArray[np.uint8]:
        """Read class ids across the whole width of a row's image.

        Args:
            row: Its number.
            top: First line of pixels.
            height: Number of lines.

        Returns:
            uint8 (height, width of the image); fewer lines where the image ends before.

        Raises:
            SampleError: A file cannot be used.
        """
        rows = np.array([row])
        image, mask = self._manifest.image_places(rows)[0], self._manifest.mask_places(rows)[0]
        with self._open(image, mask) as decoded:
            ids = decoded.mask(top, 0, height, decoded.size[1])
        return encode_mask(ids, str(mask), self._encode)

    @contextmanager
    def _open(self, image: Place, mask: Place | None) -> Iterator[_Decoded]:
        key = f"{_stamp(image)} {mask and _stamp(mask)} {self._decode!r}"
        if key in self._failures:  # a row a tile: what is broken would be decoded for each
            raise SampleError(self._failures[key])
        try:
            file = self._storage.keep(key, lambda: self._decoded(image, mask))
        except SampleError as error:
            self._failures[key] = str(error)
            raise
        with file:
            yield _Decoded(file, str(image))

    def _decoded(self, image: Place, mask: Place | None) -> Parts:
        with _decoding:
            file = self._storage.fetch(image)
            if mask is None:
                return _in_strips([decode_image(file, self._decode)])
            return _in_strips(decode_pair(file, self._storage.fetch(mask), self._decode))

    def _find_classes(self, image: Place, mask: Place) -> Presence:
        cell = cell_size(self._size)
        with self._open(image, mask) as decoded:
            height, width = decoded.size
            bands = (
                encode_mask(decoded.mask(top, 0, cell[0], width), str(mask), self._encode)
                for top in range(0, height, cell[0])
            )
            return find_classes(bands, cell)


class _Decoded:
    """A decoded image and its mask in a file, of which windows are read."""

    def __init__(self, file: FileIO | BytesIO, name: str) -> None:
        self._file, self._name = file, name
        height, width = _HEADER.unpack(file.read(_HEADER.size))
        self.size = height, width

    def image(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Read pixels of the image, uint8 (height, width, 3), fewer where it ends before."""
        return self._window(_HEADER.size, 3, top, left, height, width)

    def mask(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Read values of the mask, uint8 (height, width), fewer where it ends before."""
        start = _HEADER.size + 3 * self.size[0] * self.size[1]
        return self._window(start, 1, top, left, height, width)[..., 0]

    def _window(
        self, start: int, channels: int, top: int, left: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        lines, right = min(height, self.size[0] - top), min(left + width, self.size[1])
        out = np.empty((lines, right - left, channels), np.uint8)
        for begin, end in _strips(self.size[1]):
            low, high = max(begin, left), min(end, right)
            if low < high:
                strip = np.empty((lines, end - begin, channels), np.uint8)
                place = begin * self.size[0] + top * (end - begin)
                self._file.seek(start + place * channels)
                self._fill(strip)
                out[:, low - left : high - left] = strip[:, low - begin : high - begin]
        return out

    def _fill(self, strip: NDArray[np.uint8]) -> None:
        if self._file.readinto(strip.data) != strip.nbytes:
            raise SampleError(
                f"{self._name} must stay in the cache folder while it is used, but its file "
                "there has become shorter; is the temporary disk full or being cleaned?"
            )


def _in_strips(planes: Sequence[NDArray[np.uint8]]) -> Parts:
    """Lay out planes (H, W, ...) so that a window of them is a few long reads.

    Each is cut into strips from top to bottom, which follow one another from left to right.
    """
    height, width = planes[0].shape[:2]
    header = np.frombuffer(_HEADER.pack(height, width), np.uint8)
    return [header, *(plane[:, begin:end] for plane in planes for begin, end in _strips(width))]


def _strips(width: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(begin + _STRIP, width)) for begin in range(0, width, _STRIP))


def _stamp(place: Place) -> str:
    """Name a file so that its name is another one when its content is."""
    if isinstance(place, str) and not is_remote(place):
        with suppress(OSError):  # decoding it will say what is wrong
            status = Path(place).stat()
            return f"{place} {status.st_size} {status.st_mtime_ns}"
    return repr(place)


def _padded(
    image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    below, beside = size[0] - image.shape[0], size[1] - image.shape[1]
    if below or beside:
        image = cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REFLECT)
        if mask is not None:
            margins = 0, below, 0, beside
            mask = cv2.copyMakeBorder(mask, *margins, cv2.BORDER_CONSTANT, value=IGNORED)
    return image, mask
