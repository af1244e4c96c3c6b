"""Where pixels go: every geometric change of a sample as one 2x3 matrix, free of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Border = Literal["reflect", "constant", "nearest"]

Row = tuple[float, float, float]
Matrix = tuple[Row, Row]
"""An affine map: (x, y) = (a * x' + b * y' + c, d * x' + e * y' + f)."""


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
) -> Matrix:
    """Compose all of a geometry and the resize into one affine map, from output to source.

    A pixel's centre has whole coordinates (x, y), so an image reaches from -0.5 to side - 0.5;
    the identity geometry gives exactly the alignment of `cv2.resize`. Angles are true in the
    source; the resize to `image_size` stretches.

    Args:
        geometry: What to do.
        source_size: (height, width) of the source in pixels.
        image_size: (height, width) of the result in pixels.

    Returns:
        Two rows of three: source (x, y) = matrix @ (output x, output y, 1).
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
    return (
        (a * step_x, b * step_y, a * start_x + b * start_y + (source_width - 1) / 2),
        (c * step_x, d * step_y, c * start_x + d * start_y + (source_height - 1) / 2),
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
    rate_y, rate_x = rates(matrix(geometry, image_size, image_size))
    # The tiny allowance keeps rounding errors from asking for one pixel more.
    return math.ceil(image_size[0] / rate_y - 1e-6), math.ceil(image_size[1] / rate_x - 1e-6)


def rates(to_source: Matrix) -> tuple[float, float]:
    """Tell how many source pixels at most fall on an output pixel along the source's (y, x)."""
    (a, b, _), (c, d, _) = to_source
    return math.hypot(c, d), math.hypot(a, b)


def extent(row: Row, image_size: tuple[int, int]) -> tuple[float, float]:
    """Tell which part of one side of the source the result looks at.

    Args:
        row: The row of the matrix that belongs to that side.
        image_size: (height, width) of the result in pixels.

    Returns:
        Lowest and highest source coordinate, counted from the image's outer edge.
    """
    height, width = image_size
    reach_x, reach_y = row[0] * width, row[1] * height
    start = row[2] - (row[0] + row[1]) / 2 + 0.5
    ends = (0.0, reach_x, reach_y, reach_x + reach_y)
    return start + min(ends), start + max(ends)


def moved(to_source: Matrix, down: float, right: float) -> Matrix:
    """Follow a source whose content has moved by so many pixels."""
    (a, b, x), (c, d, y) = to_source
    return (a, b, x + right), (c, d, y + down)


def shrunk(to_source: Matrix, by_y: int, by_x: int) -> Matrix:
    """Follow a source of which blocks of `by_y` times `by_x` pixels have become one."""
    (a, b, x), (c, d, y) = to_source
    return (
        (a / by_x, b / by_x, (x - (by_x - 1) / 2) / by_x),
        (c / by_y, d / by_y, (y - (by_y - 1) / 2) / by_y),
    )
