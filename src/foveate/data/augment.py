"""Random changes to training images: sampled first, as plain numbers, then applied.

`resolve` turns settings into ranges, `sample` draws one `Parameters` from them, `apply` is a pure
function of it. All parameters are relative, so they fit an image and a mask of any resolution,
and tell `decode_size` how large an image is worth decoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.config.augmentation import AugmentConfig, MixConfig
from foveate.data.color import Color, Quality, degrade, recolor
from foveate.data.geometry import Border, Geometry, sharp_size
from foveate.data.warp import warp_image, warp_mask


@dataclass(frozen=True)
class Ranges:
    """What to draw from; fields, units and meaning are those of `foveate.config.augmentation`."""

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    crop: float = 1.0
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    border: Border = "reflect"
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    channel: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erasing: float = 0.0


@dataclass(frozen=True)
class Parameters:
    """Everything that was drawn for one sample; the default changes nothing."""

    geometry: Geometry = field(default_factory=Geometry)
    color: Color = field(default_factory=Color)
    quality: Quality = field(default_factory=Quality)


PRESETS = {
    "none": Ranges(),
    "light": Ranges(shift=0.05, zoom=0.05, horizontal_flip=0.5, brightness=0.1, contrast=0.1),
    "standard": Ranges(
        rotation=15.0,
        shift=0.1,
        zoom=0.15,
        horizontal_flip=0.5,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
    ),
    "strong": Ranges(
        rotation=25.0,
        shift=0.1,
        shear=0.1,
        zoom=0.2,
        crop=0.3,
        horizontal_flip=0.5,
        brightness=0.3,
        contrast=0.3,
        gamma=0.2,
        channel=0.1,
        saturation=0.4,
        hue=10.0,
        blur=1.0,
        erasing=0.25,
    ),
    # Orientation, and in stained or enhanced images colour, carry meaning there.
    "medical": Ranges(
        rotation=10.0, shift=0.05, zoom=0.1, horizontal_flip=0.5, brightness=0.1, contrast=0.1
    ),
}

NUM_DRAWS = 32
"""Uniform numbers that `sample` may take; a whole number of the blocks a generator makes."""

_CROP_RATIO = 4 / 3  # how far a crop's shape may depart; Szegedy et al., 2015, section 6
_ERASED_SHARE = (0.02, 0.2)  # of the image's area, as `QualityConfig.erasing` says
_ERASED_RATIO = 0.3  # narrowest shape of an erased rectangle; Zhong et al., 2020


def resolve(config: AugmentConfig) -> Ranges:
    """Fill unset ranges from the preset.

    Args:
        config: A preset and what overrides it.

    Returns:
        Every range as a number.
    """
    given = {
        name: value
        for section in (config.geometry, config.color, config.quality)
        for name, value in section
        if value is not None
    }
    return replace(PRESETS[config.preset], **given)


def sample(ranges: Ranges, numbers: Iterable[float]) -> Parameters:
    """Draw the changes of one sample.

    Every range has draws of its own, in a fixed order, so that to change one range leaves what
    the others give as it was.

    Args:
        ranges: What to draw from.
        numbers: The sample's own `NUM_DRAWS` uniform numbers, 0 to below 1.

    Returns:
        What to do, relative to any size.
    """
    draws = iter(numbers)
    return Parameters(
        _sample_geometry(ranges, draws),
        _sample_color(ranges, draws),
        _sample_quality(ranges, draws),
    )


def decode_size(parameters: Parameters, image_size: tuple[int, int]) -> tuple[int, int]:
    """Tell how large an image must be decoded to lose no sharpness.

    Args:
        parameters: What will be done.
        image_size: (height, width) of the result in pixels.

    Returns:
        Smallest (height, width) of the whole image in pixels.
    """
    return sharp_size(parameters.geometry, image_size)


def apply(
    image: NDArray[np.uint8],
    parameters: Parameters,
    image_size: tuple[int, int],
    mask: NDArray[np.uint8] | None = None,
    ignore: int = 255,
    out: NDArray[np.uint8] | None = None,
    mask_out: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Resize and change an image, and its mask alike.

    Args:
        image: uint8 (H, W, 3), RGB.
        parameters: What to do; the default only resizes, stretching to `image_size`.
        image_size: (height, width) of the result in pixels.
        mask: uint8 (H', W'), ids; may have another resolution than the image.
        ignore: Id of mask pixels from outside under the border `constant`.
        out: uint8 (height, width, 3), C-contiguous, to write to, such as a row of a batch.
        mask_out: uint8 (height, width), C-contiguous, to write to.

    Returns:
        uint8 (height, width, 3), RGB, and uint8 (height, width), or None without a mask. Erasing
        leaves the mask as it is.
    """
    result = warp_image(image, parameters.geometry, image_size, out)
    recolor(result, parameters.color)
    degrade(result, parameters.quality)
    if mask is None:
        return result, None
    return result, warp_mask(mask, parameters.geometry, image_size, ignore, mask_out)


def mix_batch(
    images: NDArray[np.uint8],
    targets: NDArray[np.float32],
    config: MixConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Mix each sample of a batch with another one, by MixUp or CutMix.

    Args:
        images: uint8 (B, H, W, 3).
        targets: float32 (B, K), one-hot or any distribution over classes.
        config: Beta parameters; with both above 0 each is taken for half of the batches.
        rng: The batch's own generator.

    Returns:
        New arrays of the same shapes and types; the given ones if mixing is off.
    """
    use_mixup = config.mixup > 0 and (config.cutmix <= 0 or rng.random() < 0.5)
    concentration = config.mixup if use_mixup else config.cutmix
    if concentration <= 0:
        return images, targets
    share = rng.beta(concentration, concentration)
    partner = rng.permutation(len(images))
    if use_mixup:
        rows = (len(images), -1)
        blend = cv2.addWeighted(
            images.reshape(rows), share, images[partner].reshape(rows), 1 - share, 0
        )
        mixed = blend.reshape(images.shape)
    else:
        top, bottom, left, right = _cut(images.shape[1], images.shape[2], 1 - share, rng)
        mixed = images.copy()
        mixed[:, top:bottom, left:right] = images[partner, top:bottom, left:right]
        # The box is clipped at the edge: the share is that of the pixels really kept.
        share = 1 - (bottom - top) * (right - left) / (images.shape[1] * images.shape[2])
    kept = np.float32(share)
    return mixed, targets * kept + targets[partner] * (1 - kept)


def _cut(
    height: int, width: int, area: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The (top, bottom, left, right) of CutMix' box (Yun et al., 2019, section 3.1)."""
    side = math.sqrt(area) / 2
    center_y, center_x = rng.random(2)
    ends = []
    for center, length in ((center_y, height), (center_x, width)):
        ends += [round(max(center - side, 0) * length), round(min(center + side, 1) * length)]
    return ends[0], ends[1], ends[2], ends[3]


def _either(width: float, draws: Iterator[float]) -> float:
    """Uniform from -width to width."""
    return (2 * next(draws) - 1) * width


def _between(low: float, high: float, draws: Iterator[float]) -> float:
    return low + (high - low) * next(draws)


def _sample_geometry(ranges: Ranges, draws: Iterator[float]) -> Geometry:
    rotation = math.radians(_either(ranges.rotation, draws))
    shear = _either(ranges.shear, draws)
    zoom = 1 + _either(ranges.zoom, draws)
    shift = (_either(ranges.shift, draws), _either(ranges.shift, draws))
    crop = _sample_crop(ranges.crop, draws)
    flip = (next(draws) < ranges.vertical_flip, next(draws) < ranges.horizontal_flip)
    return Geometry(rotation, shear, zoom, shift, crop, flip, ranges.border)


def _sample_crop(smallest: float, draws: Iterator[float]) -> tuple[float, float, float, float]:
    area = _between(smallest, 1, draws)
    # Both sides stay within the image exactly while area <= ratio <= 1 / area.
    widest = math.log(min(_CROP_RATIO, 1 / area))
    ratio = math.exp(_either(widest, draws))
    height, width = min(1.0, math.sqrt(area / ratio)), min(1.0, math.sqrt(area * ratio))
    return next(draws) * (1 - height), next(draws) * (1 - width), height, width


def _sample_color(ranges: Ranges, draws: Iterator[float]) -> Color:
    return Color(
        gamma=1 + _either(ranges.gamma, draws),
        contrast=1 + _either(ranges.contrast, draws),
        brightness=_either(ranges.brightness, draws),
        channel=(
            1 + _either(ranges.channel, draws),
            1 + _either(ranges.channel, draws),
            1 + _either(ranges.channel, draws),
        ),
        saturation=1 + _either(ranges.saturation, draws),
        hue=math.radians(_either(ranges.hue, draws)),
    )


def _sample_quality(ranges: Ranges, draws: Iterator[float]) -> Quality:
    blur = next(draws) * ranges.blur
    noise = next(draws) * ranges.noise
    noise_seed = int(next(draws) * 2**53)
    erased = next(draws) < ranges.erasing
    area = _between(*_ERASED_SHARE, draws)
    ratio = math.exp(_either(math.log(_ERASED_RATIO), draws))
    height, width = math.sqrt(area / ratio), math.sqrt(area * ratio)
    box = (next(draws) * (1 - height), next(draws) * (1 - width), height, width)
    color = (int(next(draws) * 256), int(next(draws) * 256), int(next(draws) * 256))
    return Quality(blur, noise, noise_seed, box if erased else None, color)
