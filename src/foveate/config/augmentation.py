"""Settings of augmentation: a preset, and every range of it to override."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foveate.config.section import Section

Chance = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(ge=0.0)]


class GeometryConfig(Section):
    """Where pixels go; the same for an image and its mask. Unset values follow the preset."""

    rotation: Annotated[float, Field(ge=0.0, le=180.0)] | None = None
    """Largest rotation either way, in degrees."""
    shift: Share | None = None
    """Largest shift either way, as a share of the side."""
    shear: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Largest horizontal shear either way: shift per unit of height."""
    zoom: Share | None = None
    """Largest relative change of scale: 0.2 draws from 0.8 to 1.2."""
    crop: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Smallest share of the area that a random resized crop keeps; 1 crops nothing."""
    horizontal_flip: Chance | None = None
    """Chance of a left-right flip."""
    vertical_flip: Chance | None = None
    """Chance of an upside-down flip."""
    border: Literal["reflect", "constant", "nearest"] | None = None
    """What fills pixels from outside: mirrored, black (masks: ignored), or the edge's own."""


class ColorConfig(Section):
    """What colours become. Unset values follow the preset."""

    brightness: Share | None = None
    """Largest change of brightness either way, as a share of full scale."""
    contrast: Share | None = None
    """Largest relative change of contrast."""
    gamma: Share | None = None
    """Largest relative change of the exponent."""
    channel: Share | None = None
    """Largest relative change of each colour channel on its own."""
    saturation: Share | None = None
    """Largest relative change of saturation."""
    hue: Annotated[float, Field(ge=0.0, le=180.0)] | None = None
    """Largest turn of hue either way, in degrees."""


class QualityConfig(Section):
    """What degrades an image. Unset values follow the preset."""

    blur: Positive | None = None
    """Largest standard deviation of a Gaussian blur, in pixels of the result."""
    noise: Positive | None = None
    """Largest standard deviation of Gaussian noise, in grey levels (0 to 255)."""
    erasing: Chance | None = None
    """Chance that one rectangle of 2 to 20 % of the image is erased."""


class MixConfig(Section):
    """Mixing of samples within a batch (classification)."""

    mixup: Positive = 0.0
    """Beta parameter of MixUp (Zhang et al., 2018); 0 is off."""
    cutmix: Positive = 0.0
    """Beta parameter of CutMix (Yun et al., 2019); 0 is off. With both, each batch draws one."""


class AugmentConfig(Section):
    """Random changes to training images."""

    preset: Literal["none", "light", "standard", "strong", "medical"] = "standard"
    """Where unset ranges come from."""
    geometry: GeometryConfig = GeometryConfig()
    """Where pixels go."""
    color: ColorConfig = ColorConfig()
    """What colours become."""
    quality: QualityConfig = QualityConfig()
    """Blur, noise, erasing."""
    mix: MixConfig = MixConfig()
    """MixUp and CutMix."""
