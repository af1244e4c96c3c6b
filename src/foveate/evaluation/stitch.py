"""From overlapping tiles to whole images: logits blended band by band, then one class a pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.data.manifest import Manifest
from foveate.errors import SampleError
from foveate.tasks.segmentation import confusion

Size = tuple[int, int]


class Band(NamedTuple):
    """Lines of an image that no further tile reaches.

    Attributes:
        image: Row of the image.
        size: (height, width) of the image in pixels.
        top: First line.
        logits: float32 (lines, width of the image, K); valid until the next band is asked for.
    """

    image: int
    size: Size
    top: int
    logits: NDArray[np.float32]


class WholeImage(NamedTuple):
    """What a model made of an image.

    Attributes:
        image: Its row.
        ids: Class of each pixel, uint8 (H, W), at the image's own size.
        shares: Share of each class in them, float64 (1, K).
        counts: Pixels by true (rows) and predicted class, int64 (K, K); 0 without targets.
    """

    image: int
    ids: NDArray[np.uint8]
    shares: NDArray[np.float64]
    counts: NDArray[np.int64]


def whole_images(
    bands: Iterable[Band], targets: Callable[[int, int, int], NDArray[np.uint8]] | None = None
) -> Iterator[WholeImage]:
    """Choose the class of each pixel, image by image.

    Args:
        bands: Those of an image one after the other, from top to bottom.
        targets: From an image's row, a line and a number of lines to their true class ids, uint8
            (lines, width).

    Yields:
        An image as soon as its last band is there.
    """
    ids, counts, pixels = np.empty((0, 0), np.uint8), np.empty((0, 0), np.int64), np.empty(0)
    for image, size, top, logits in bands:
        lines, num_classes = len(logits), logits.shape[-1]
        if top == 0:
            ids, pixels = np.empty(size, np.uint8), np.zeros(num_classes)
            counts = np.zeros((num_classes, num_classes), np.int64)
        chosen = ids[top : top + lines]
        chosen[:] = logits.argmax(-1)
        pixels += np.bincount(chosen.ravel(), minlength=num_classes)
        if targets is not None:
            counts += confusion(targets(image, top, lines), chosen, num_classes)
        if top + lines == size[0]:
            yield WholeImage(image, ids, pixels[None] / ids.size, counts)


def blended(
    tiles: Iterable[tuple[int, NDArray[np.float32]]], manifest: Manifest, tile: Size
) -> Iterator[Band]:
    """Blend the logits of overlapping tiles.

    No more is held than the lines that one row of tiles covers, whatever the size of the image.

    Args:
        tiles: Row and logits (h, w, K) of each, in the order of the manifest; resized to the
            tile if they are not of its size.
        manifest: Rows of `foveate.data.tiles.grid`, which overlap.
        tile: (height, width) of a tile in pixels.

    Yields:
        The bands of each image from top to bottom.

    Raises:
        SampleError: Some tiles of an image are missing: it could be read at first.
    """
    columns = "tile_image", "tile_top", "tile_left", "height", "width"
    places = manifest.table.select(columns).to_numpy()
    canvas: _Canvas | None = None
    for row, logits in tiles:
        image, top, left, height, width = places[row].tolist()
        if canvas is None or canvas.image != image:
            if canvas is not None:
                yield canvas.band(canvas.size[0])
            shape = height, width, logits.shape[-1]
            canvas = _Canvas(image, manifest.image_path(row), shape, tile)
        if top != canvas.top:
            yield canvas.band(top)
            canvas.move(top)
        canvas.add(logits, left)
    if canvas is not None:
        yield canvas.band(canvas.size[0])


class _Canvas:
    """The lines of an image that a row of tiles covers, being blended."""

    def __init__(self, image: int, name: str, shape: tuple[int, int, int], tile: Size) -> None:
        height, width, num_classes = shape
        self.image, self.size, self.top = image, (height, width), 0
        self._name, self._tile, self._window = name, tile, _window(tile)
        lines = min(tile[0], height)
        self._sum = np.zeros((lines, width, num_classes), np.float32)
        self._weight = np.zeros((lines, width, 1), np.float32)

    def add(self, logits: NDArray[np.float32], left: int) -> None:
        """Add a tile whose first line is that of the canvas."""
        if logits.shape[:2] != self._tile:
            size = self._tile[::-1]
            resized = cv2.resize(logits, size, interpolation=cv2.INTER_LINEAR)
            logits = resized.reshape(*self._tile, -1)
        here = np.s_[: self.size[0] - self.top, left : left + self._tile[1]]
        lines, columns = self._weight[here].shape[:2]
        window = self._window[:lines, :columns]
        self._sum[here] += logits[:lines, :columns] * window
        self._weight[here] += window

    def band(self, end: int) -> Band:
        """Finish all lines before one; they may not be added to any more."""
        lines = end - self.top
        total, weight = self._sum[:lines], self._weight[:lines]
        if len(weight) < lines or not weight.all():
            raise SampleError(
                f"{self._name} must stay readable until it is judged, but some tiles of it could "
                "not be read any more; put the file back and begin again"
            )
        total /= weight  # in place: with many classes it is most of the memory
        return Band(self.image, self.size, self.top, total)

    def move(self, top: int) -> None:
        """Let go of all lines before one."""
        lines = top - self.top
        for kept in (self._sum, self._weight):
            kept[: len(kept) - lines] = kept[lines:]
            kept[len(kept) - lines :] = 0
        self.top = top


def _window(tile: Size) -> NDArray[np.float32]:
    """Weights of a tile's pixels, which fall to its border, where a model knows least.

    A Hann window (Pielawski & Wählby, 2020, "Introducing Hann windows for reducing edge-effects
    in patch-based image segmentation"), taken at the middle of pixels so that none is 0.

    Returns:
        float32 (height, width, 1), above 0 and at most 1.
    """
    down, right = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in tile)
    return np.outer(down, right).astype(np.float32)[..., None]
