"""What colours become, and what spoils an image: changes of pixel values that move nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SHARES = np.arange(256) / 255  # what the values of a pixel are of full scale
_NO_CHANGE = (1.0, 0.0, (1.0, 1.0, 1.0), 1.0, 0.0)  # all fields after gamma
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
    """One sampled change of colour, in the order of the fields; only the result is clipped.

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
    """Change the colours of an image in place: gamma by a table, all else by one matrix.

    Args:
        image: uint8 (H, W, 3), RGB, 0 to 255, contiguous; overwritten.
        color: What to do; parts that change nothing cost nothing.
    """
    if color.gamma != 1:
        cv2.LUT(image, gamma_table(color.gamma), dst=image)
    if (
        color.contrast,
        color.brightness,
        color.channel,
        color.saturation,
        color.hue,
    ) != _NO_CHANGE:
        # A table for contrast and brightness would take twice as long as the matrix.
        cv2.transform(image, color_matrix(color), dst=image)


def gamma_table(gamma: float) -> NDArray[np.uint8]:
    """Tell what gamma makes of each value.

    Args:
        gamma: Exponent of the value as a share of full scale.

    Returns:
        uint8 (256,).
    """
    return np.rint(255 * _SHARES**gamma).astype(np.uint8)


def color_matrix(color: Color) -> NDArray[np.float32]:
    """Compose contrast, brightness, channel factors, saturation and hue.

    Args:
        color: What to do; gamma is not linear and does not enter.

    Returns:
        float32 (3, 4): new (red, green, blue) = matrix @ (*old, 1), in grey levels; it leaves
        grey grey unless there are channel factors.
    """
    # As `feColorMatrix` of type saturate and hueRotate in the W3C's module named above.
    saturate = _TO_LUMINANCE + color.saturation * _HUE_COSINE
    turn = _TO_LUMINANCE + math.cos(color.hue) * _HUE_COSINE + math.sin(color.hue) * _HUE_SINE
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = turn @ saturate * color.channel
    offset = 255 * (0.5 - 0.5 * color.contrast + color.brightness)
    matrix[:, 3] = matrix[:, :3].sum(axis=1) * offset
    matrix[:, :3] *= color.contrast
    return matrix


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
