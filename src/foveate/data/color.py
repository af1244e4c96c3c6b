"""What colours become, and what spoils an image: changes of pixel values that move nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SHARES = np.arange(256) / 255  # what the values of a pixel are of full scale
_NO_POINT_CHANGE = (1.0, 1.0, 0.0, (1.0, 1.0, 1.0))  # gamma, contrast, brightness, channel
# The luminance shares of red, green and blue in the matrices of CSS and SVG filters: W3C, Filter
# Effects Module Level 1, feColorMatrix.
_LUMINANCE = np.array([0.213, 0.715, 0.072])
_TO_LUMINANCE = np.tile(_LUMINANCE, (3, 1))
_HUE_COSINE = np.eye(3) - _TO_LUMINANCE
_HUE_SINE = np.array(
    [
        [-0.213, -0.715, 0.928],
        [0.143, 0.140, -0.283],
        [-0.787, 0.715, 0.072],
    ]
)


@dataclass(frozen=True)
class Color:
    """One sampled change of colour; the point-wise part acts in the order of the fields.

    Attributes:
        gamma: Exponent of the value as a share of full scale.
        contrast: Factor of the distance from mid grey.
        brightness: Share of full scale to add.
        channel: Factors of red, green and blue.
        saturation: Factor of the distance from grey.
        hue: Turn of the hue in radians.
    """

    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    channel: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    hue: float = 0.0


@dataclass(frozen=True)
class Quality:
    """One sampled loss of quality.

    Attributes:
        blur: Standard deviation of a Gaussian blur in pixels.
        noise: Standard deviation of Gaussian noise in grey levels.
        noise_seed: What the noise is drawn from.
        erased: (top, left, height, width) of a rectangle, as shares of the sides, or None.
        erased_color: Red, green and blue, 0 to 255, that the rectangle is filled with.
    """

    blur: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0
    erased: tuple[float, float, float, float] | None = None
    erased_color: tuple[int, int, int] = (0, 0, 0)


def recolor(image: NDArray[np.uint8], color: Color) -> None:
    """Change the colours of an image in place: one lookup table, one 3x3 matrix.

    Args:
        image: uint8 (H, W, 3), RGB, 0 to 255, contiguous; overwritten.
        color: What to do; parts that change nothing cost nothing.
    """
    if (color.gamma, color.contrast, color.brightness, color.channel) != _NO_POINT_CHANGE:
        cv2.LUT(image, lookup_table(color), dst=image)
    if (color.saturation, color.hue) != (1.0, 0.0):
        cv2.transform(image, color_matrix(color), dst=image)


def lookup_table(color: Color) -> NDArray[np.uint8]:
    """Compose gamma, contrast, brightness and channel factors into one table.

    Args:
        color: What to do; saturation and hue are not point-wise and do not enter.

    Returns:
        uint8 (256, 1, 3): red, green and blue of each value; (256, 1, 1) if they agree.
    """
    value = _SHARES if color.gamma == 1 else _SHARES**color.gamma
    value = (value - 0.5) * color.contrast + (0.5 + color.brightness)
    factors = color.channel if len(set(color.channel)) > 1 else color.channel[:1]
    levels = np.multiply.outer(value, np.array(factors) * 255)
    return np.rint(levels.clip(0, 255)).astype(np.uint8)[:, None]


def color_matrix(color: Color) -> NDArray[np.float32]:
    """Compose saturation and hue into one matrix that leaves grey as it is.

    Args:
        color: What to do.

    Returns:
        float32 (3, 3): new (red, green, blue) = matrix @ old.
    """
    # As `feColorMatrix` of type saturate and hueRotate in the W3C's module named above.
    saturate = _TO_LUMINANCE + color.saturation * _HUE_COSINE
    turn = _TO_LUMINANCE + math.cos(color.hue) * _HUE_COSINE + math.sin(color.hue) * _HUE_SINE
    return (turn @ saturate).astype(np.float32)


def degrade(image: NDArray[np.uint8], quality: Quality) -> None:
    """Blur an image, add noise and erase a rectangle, in place.

    Args:
        image: uint8 (H, W, 3), 0 to 255, contiguous; overwritten.
        quality: What to do; parts that change nothing cost nothing.
    """
    if quality.blur > 0:
        cv2.GaussianBlur(image, (0, 0), quality.blur, dst=image)
    if quality.noise > 0:
        generator = np.random.Generator(np.random.SFC64(quality.noise_seed))
        noise = generator.standard_normal(image.shape, np.float32) * np.float32(quality.noise)
        cv2.add(image, noise, dst=image, dtype=cv2.CV_8U)
    if quality.erased is not None:
        top, left, height, width = quality.erased
        begin_y, end_y = (round(share * image.shape[0]) for share in (top, top + height))
        begin_x, end_x = (round(share * image.shape[1]) for share in (left, left + width))
        image[begin_y:end_y, begin_x:end_x] = quality.erased_color
