"""Where pixels go: every geometric change of a sample as one 2x3 matrix and one warp."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Border = Literal["reflect", "constant", "nearest"]

# Mirrored at the pixels' outer edge, thus at the same place whatever the resolution.
_BORDERS = {
    "reflect": cv2.BORDER_REFLECT,
    "constant": cv2.BORDER_CONSTANT,
    "nearest": cv2.BORDER_REPLICATE,
}
_LONGEST_SIDE = 2**15 - 2  # OpenCV's warps keep coordinates in 16 bits


@dataclass(frozen=True)
class Geometry:
    """One sampled geometry, free of pixels; it acts in the order of the fields.

    Attributes:
        rotation: Angle in radians about the centre, clockwise as seen.
        shear: Shift to the right per unit of distance downwards from the centre.
        zoom: Scale about the centre; above 1 things become larger.
        shift: (down, right) as shares of the image's sides.
        crop: (top, left, height, width) of the part to keep, as shares of the sides.
        flip: (upside down, left to right).
        border: What fills pixels from outside the image.
    """

    rotation: float = 0.0
    shear: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    flip: tuple[bool, bool] = (False, False)
    border: Border = "reflect"


def matrix(
    geometry: Geometry, source_size: tuple[int, int], image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Compose all of a geometry and the resize into one affine map, from output to source.

    A pixel's centre has whole coordinates (x, y), so an image reaches from -0.5 to side - 0.5;
    the identity geometry gives exactly the alignment of `cv2.resize`. Angles are true in the
    source; the resize to `image_size` stretches.

    Args:
        geometry: What to do.
        source_size: (height, width) of the source in pixels.
        image_size: (height, width) of the result in pixels.

    Returns:
        float64 (2, 3): source (x, y) = matrix @ (output x, output y, 1).
    """
    (source_height, source_width), (height, width) = source_size, image_size
    top, left, crop_height, crop_width = geometry.crop
    down, right = geometry.shift
    sign_y, sign_x = (-1.0 if flipped else 1.0 for flipped in geometry.flip)
    # Output pixel to a position relative to the source's centre, in source pixels.
    step_x = sign_x * crop_width * source_width / width
    step_y = sign_y * crop_height * source_height / height
    # The flip comes last: it mirrors the crop about the crop's own centre.
    start_x = (left + crop_width / 2 - 0.5 - right) * source_width - step_x * (width - 1) / 2
    start_y = (top + crop_height / 2 - 0.5 - down) * source_height - step_y * (height - 1) / 2
    # The inverse of zoom * shear * rotation.
    cos, sin = math.cos(geometry.rotation), math.sin(geometry.rotation)
    a, b = cos / geometry.zoom, (sin - geometry.shear * cos) / geometry.zoom
    c, d = -sin / geometry.zoom, (cos + geometry.shear * sin) / geometry.zoom
    return np.array(
        [
            [a * step_x, b * step_y, a * start_x + b * start_y + (source_width - 1) / 2],
            [c * step_x, d * step_y, c * start_x + d * start_y + (source_height - 1) / 2],
        ]
    )


def sharp_size(geometry: Geometry, image_size: tuple[int, int]) -> tuple[int, int]:
    """Tell how large a source must be to give the result at least one pixel per pixel.

    Args:
        geometry: What will be done; a rotation is reckoned as if the source had the shape of the
            result.
        image_size: (height, width) of the result in pixels.

    Returns:
        Smallest (height, width) of the whole source in pixels.
    """
    rate_y, rate_x = _rates(matrix(geometry, image_size, image_size))
    # The tiny allowance keeps rounding errors from asking for one pixel more.
    return math.ceil(image_size[0] / rate_y - 1e-6), math.ceil(image_size[1] / rate_x - 1e-6)


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
    image, to_source = _halved(image, to_source, image_size)
    border = _BORDERS[geometry.border]
    box = _box(to_source, image_size)
    if box is not None:
        resized = _resize_box(image, box, image_size, border, None if any(geometry.flip) else out)
        if not any(geometry.flip):
            return resized
        code = -1 if all(geometry.flip) else int(geometry.flip[1])
        return cv2.flip(resized, code, dst=out)
    return _warp(image, to_source, image_size, cv2.INTER_LINEAR, border, 0, out)


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


def _rates(to_source: NDArray[np.float64]) -> tuple[float, float]:
    """Most source pixels per output pixel along the source's (y, x)."""
    (a, b, _), (c, d, _) = to_source.tolist()
    return math.hypot(c, d), math.hypot(a, b)


def _extent(row: list[float], image_size: tuple[int, int]) -> tuple[float, float]:
    """Lowest and highest source coordinate, counted from the image's outer edge."""
    height, width = image_size
    reach_x, reach_y = row[0] * width, row[1] * height
    start = row[2] - (row[0] + row[1]) / 2 + 0.5
    ends = (0.0, reach_x, reach_y, reach_x + reach_y)
    return start + min(ends), start + max(ends)


def _halved(
    image: NDArray[np.uint8], to_source: NDArray[np.float64], image_size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Average pairs of pixels until fewer than two source pixels fall on an output pixel."""
    if max(_rates(to_source)) < 2:
        return image, to_source
    image, to_source = _needed(image, to_source, image_size)
    while True:
        height, width = _size(image)
        rate_y, rate_x = _rates(to_source)
        by_y = 2 if rate_y >= 2 and height >= 2 else 1
        by_x = 2 if rate_x >= 2 and width >= 2 else 1
        if by_y == by_x == 1:
            return image, to_source
        even = image[: height // by_y * by_y, : width // by_x * by_x]
        # At exactly one half, bilinear is the mean of two; several times faster than INTER_AREA.
        image = cv2.resize(even, (width // by_x, height // by_y), interpolation=cv2.INTER_LINEAR)
        offset = np.array([[0, 0, (by_x - 1) / 2], [0, 0, (by_y - 1) / 2]])
        to_source = (to_source - offset) / np.array([[by_x], [by_y]])


def _needed(
    image: NDArray[np.uint8], to_source: NDArray[np.float64], image_size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut away what the result never looks at; a side it reaches beyond stays whole."""
    begins, ends = [], []
    for side, rate, row in zip(
        _size(image), _rates(to_source), to_source.tolist()[::-1], strict=True
    ):
        low, high = _extent(row, image_size)
        margin = 2 * rate  # neighbours that averaging and bilinear weights reach
        inside = low - margin >= 0 and high + margin <= side
        begins.append(int(low - margin) if inside else 0)
        ends.append(math.ceil(high + margin) if inside else side)
    offset = np.array([[0, 0, begins[1]], [0, 0, begins[0]]])
    return image[begins[0] : ends[0], begins[1] : ends[1]], to_source - offset


def _box(
    to_source: NDArray[np.float64], image_size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The (top, bottom, left, right) that a crop and resize can take, in whole source pixels.

    None where the map turns or shears, or where whole pixels would be too coarse because the
    image is enlarged.
    """
    (_, b, _), (c, _, _) = to_source.tolist()
    if b != 0 or c != 0:
        return None
    box: list[int] = []
    for rate, row in zip(_rates(to_source), to_source.tolist()[::-1], strict=True):
        low, high = _extent(row, image_size)
        begin, end = round(low), round(high)
        moved = max(abs(begin - low), abs(end - high))
        if end <= begin or moved > rate / 2:
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


def _warp(
    pixels: NDArray[np.uint8],
    to_source: NDArray[np.float64],
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
        to_source = to_source / np.array([[by_x], [by_y]])
    return cv2.warpAffine(
        pixels,
        to_source,
        image_size[::-1],
        dst=out,
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=border,
        borderValue=fill,
    )
