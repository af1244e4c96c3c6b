"""Pixels moved: one resampling of an image or a mask, wherever its geometry sends it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.data.geometry import Geometry, Matrix, extent, matrix, moved, rates, shrunk

# Mirrored at the pixels' outer edge, thus at the same place whatever the resolution.
_BORDERS = {
    "reflect": cv2.BORDER_REFLECT,
    "constant": cv2.BORDER_CONSTANT,
    "nearest": cv2.BORDER_REPLICATE,
}
_LONGEST_SIDE = 2**15 - 2  # OpenCV's warps keep coordinates in 16 bits
_MOST_PADDING = 2  # times the source; beyond that the warp's own border costs less


@dataclass(frozen=True)
class _Reduction:
    """What keeps a resampling from skipping pixels: an image made smaller, or smoother.

    Attributes:
        size: (height, width) that comes of it.
        halvings: The factor of each side (y, x) at each step: 2, or 1 which leaves it.
        taps: Length of the kernel that then smooths each side (y, x); 1 leaves it.
    """

    size: tuple[int, int]
    halvings: tuple[tuple[int, int], ...]
    taps: tuple[int, int]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.halvings) or self.taps != (1, 1)


def warp_image(
    image: NDArray[np.uint8],
    geometry: Geometry,
    image_size: tuple[int, int],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Resample an image bilinearly, averaging first where it shrinks to a half or less.

    Without rotation and shear this is a crop and a resize, several times faster than a warp; the
    crop is then rounded to whole pixels, which moves nothing by more than half an output pixel.

    Args:
        image: uint8 (H, W, 3).
        geometry: What to do.
        image_size: (height, width) of the result in pixels.
        out: uint8 (height, width, 3) to write to; a new array when not given.

    Returns:
        uint8 (height, width, 3); `out` if it was given and is contiguous.
    """
    to_source = matrix(geometry, _size(image), image_size)
    if max(rates(to_source)) >= 2:
        image, to_source = _needed(image, to_source, image_size)
    reduction, to_source = _reduction(_size(image), to_source)
    border = _BORDERS[geometry.border]
    box = _box(to_source, image_size)
    if box is None:
        margins = _margins(reduction.size, to_source, image_size, border)
        image = _padded(image, reduction, margins, border)
        to_source = moved(to_source, margins[0], margins[2])
        return _warp(image, to_source, image_size, cv2.INTER_LINEAR, border, 0, out)
    image = _reduced(image, reduction)
    resized = _resize_box(image, box, image_size, border, None if any(geometry.flip) else out)
    if not any(geometry.flip):
        return resized
    code = -1 if all(geometry.flip) else int(geometry.flip[1])
    return cv2.flip(resized, code, dst=out)


def warp_mask(
    mask: NDArray[np.uint8],
    geometry: Geometry,
    image_size: tuple[int, int],
    ignore: int,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Resample a mask, taking the nearest id.

    Args:
        mask: uint8 (H, W), ids.
        geometry: What to do, the same as was done to the image.
        image_size: (height, width) of the result in pixels.
        ignore: Id that fills pixels from outside under the border `constant`.
        out: uint8 (height, width) to write to; a new array when not given.

    Returns:
        uint8 (height, width); `out` if it was given and is contiguous.
    """
    to_source = matrix(geometry, _size(mask), image_size)
    border = _BORDERS[geometry.border]
    return _warp(mask, to_source, image_size, cv2.INTER_NEAREST, border, ignore, out)


def _size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def _reduction(size: tuple[int, int], to_source: Matrix) -> tuple[_Reduction, Matrix]:
    """Tell how to reduce an image for its map, and give the map from the reduced one."""
    halvings: list[tuple[int, int]] = []
    height, width = size
    while True:
        rate_y, rate_x = rates(to_source)
        least = 2 if min(rate_y, rate_x) >= 2 else 4  # one side alone is smoothed in less time
        by_y = 2 if rate_y >= least and height >= 2 else 1
        by_x = 2 if rate_x >= least and width >= 2 else 1
        if by_y == by_x == 1:
            taps = _num_taps(rate_y), _num_taps(rate_x)
            return _Reduction((height, width), tuple(halvings), taps), to_source
        halvings.append((by_y, by_x))
        height, width = height // by_y, width // by_x
        to_source = shrunk(to_source, by_y, by_x)


def _num_taps(rate: float) -> int:
    """Length of the binomial kernel that smooths for so many source pixels to an output pixel.

    It spreads a pixel (with a variance of 1/2 for three taps, 1 for five), and so do the bilinear
    weights after it (1/6): together about as far as averaging `rate` pixels (`rate` squared / 12).
    """
    return 1 if rate < 2 else 3 if rate < 3 else 5


def _reduced(
    image: NDArray[np.uint8], reduction: _Reduction, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Average pairs of pixels, then smooth; the last of it into `out`."""
    taps_y, taps_x = reduction.taps
    smooths = reduction.taps != (1, 1)
    for step, (by_y, by_x) in enumerate(reduction.halvings, 1):
        height, width = image.shape[0] // by_y, image.shape[1] // by_x
        even = image[: height * by_y, : width * by_x]
        to = None if smooths or step < len(reduction.halvings) else out
        # At exactly one half, bilinear is the mean of two; several times faster than INTER_AREA.
        image = cv2.resize(even, (width, height), dst=to, interpolation=cv2.INTER_LINEAR)
    if not smooths:
        return image
    # Without a width of the bell, three taps are 1 2 1 and five are 1 4 6 4 1.
    return cv2.GaussianBlur(image, (taps_x, taps_y), 0, dst=out, borderType=cv2.BORDER_REPLICATE)


def _needed(
    image: NDArray[np.uint8], to_source: Matrix, image_size: tuple[int, int]
) -> tuple[NDArray[np.uint8], Matrix]:
    """Cut away what the result never looks at; a side it reaches beyond stays whole."""
    begins, ends = [], []
    for side, rate, row in zip(_size(image), rates(to_source), to_source[::-1], strict=True):
        low, high = extent(row, image_size)
        margin = 2 * rate  # neighbours that averaging and bilinear weights reach
        inside = low - margin >= 0 and high + margin <= side
        begins.append(int(low - margin) if inside else 0)
        ends.append(math.ceil(high + margin) if inside else side)
    part = image[begins[0] : ends[0], begins[1] : ends[1]]
    return part, moved(to_source, -begins[0], -begins[1])


def _box(to_source: Matrix, image_size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The (top, bottom, left, right) that a crop and resize can take, in whole source pixels.

    None where the map turns or shears, or where whole pixels would be too coarse because the
    image is enlarged.
    """
    (_, b, _), (c, _, _) = to_source
    if b != 0 or c != 0:
        return None
    box: list[int] = []
    for rate, row in zip(rates(to_source), to_source[::-1], strict=True):
        low, high = extent(row, image_size)
        begin, end = round(low), round(high)
        error = max(abs(begin - low), abs(end - high))
        if end <= begin or error > rate / 2:
            return None
        box += [begin, end]
    return box[0], box[1], box[2], box[3]


def _resize_box(
    image: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    image_size: tuple[int, int],
    border: int,
    out: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    height, width = _size(image)
    top, bottom, left, right = box
    above, before = max(0, -top), max(0, -left)
    below, after = max(0, bottom - height), max(0, right - width)
    if above or below or before or after:
        image = cv2.copyMakeBorder(image, above, below, before, after, border, value=0)
    part = image[top + above : bottom + above, left + before : right + before]
    return cv2.resize(part, image_size[::-1], dst=out, interpolation=cv2.INTER_LINEAR)


def _margins(
    size: tuple[int, int], to_source: Matrix, image_size: tuple[int, int], border: int
) -> tuple[int, int, int, int]:
    """The border (top, bottom, left, right) to give an image before its warp, in pixels.

    It is all that the result will see: a warp that stays inside is faster. Nothing where the
    warp's own border is as fast, or where it would take too much memory.
    """
    if border == cv2.BORDER_CONSTANT:
        return 0, 0, 0, 0
    margins: list[int] = []
    for side, row in zip(size, to_source[::-1], strict=True):
        low, high = extent(row, image_size)
        margins += [max(math.ceil(-low) + 1, 0), max(math.ceil(high - side) + 1, 0)]
    top, bottom, left, right = margins
    height, width = size[0] + top + bottom, size[1] + left + right
    if height * width > _MOST_PADDING * size[0] * size[1] or max(height, width) > _LONGEST_SIDE:
        return 0, 0, 0, 0
    return top, bottom, left, right


def _padded(
    image: NDArray[np.uint8],
    reduction: _Reduction,
    margins: tuple[int, int, int, int],
    border: int,
) -> NDArray[np.uint8]:
    """Reduce an image and put a border around it."""
    if not any(margins):
        return _reduced(image, reduction)
    if not reduction.changes:
        return cv2.copyMakeBorder(image, *margins, border)
    top, bottom, left, right = margins
    height, width = reduction.size
    padded = np.empty((top + height + bottom, left + width + right, 3), np.uint8)
    inside = padded[top : top + height, left : left + width]
    _reduced(image, reduction, out=inside)
    # What lies inside already is not copied again.
    return cv2.copyMakeBorder(inside, *margins, border, dst=padded)


def _warp(
    pixels: NDArray[np.uint8],
    to_source: Matrix,
    image_size: tuple[int, int],
    interpolation: int,
    border: int,
    fill: int,
    out: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    # Only masks and extreme panoramas are this long; every other pixel is dropped, never mixed.
    while max(_size(pixels)) > _LONGEST_SIDE:
        by_y, by_x = (2 if side > _LONGEST_SIDE else 1 for side in _size(pixels))
        pixels = pixels[::by_y, ::by_x]
        (a, b, x), (c, d, y) = to_source
        to_source = (a / by_x, b / by_x, x / by_x), (c / by_y, d / by_y, y / by_y)
    return cv2.warpAffine(
        pixels,
        np.array(to_source),
        image_size[::-1],
        dst=out,
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=border,
        borderValue=fill,
    )
