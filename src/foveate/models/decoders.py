"""From the feature maps of a backbone back to the resolution of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keras import layers, ops

from foveate.errors import ConfigError

Size = tuple[int, int]


def unet_decoder(
    features: Sequence[Any], image_size: Size, channels: Sequence[int], dropout: float
) -> Any:
    """Upsample and join skips, from the bottleneck to the image's size.

    As U-Net (Ronneberger et al., 2015), with bilinear upsampling, padded convolutions and batch
    normalization. A step doubles the size and takes the exact size of the skip it joins, so any
    image size works; where the backbone has no feature map of a resolution, the step joins none.

    Args:
        features: Feature maps (B, h, w, C) from high resolution to low; the last is the
            bottleneck.
        image_size: (height, width) in pixels.
        channels: Channels of the steps from the bottleneck up; surplus entries are not used.
        dropout: Share of the bottleneck's channels dropped in training.

    Returns:
        (B, height, width, channels of the last step).

    Raises:
        ConfigError: There are fewer channels than steps.
    """
    x = features[-1]
    steps = list(_steps(features, image_size))
    if len(channels) < len(steps):
        raise ConfigError(
            f"model.decoder_channels must have at least {len(steps)} entries, one for each step "
            f"from the bottleneck {tuple(x.shape[1:3])} to the image {tuple(image_size)}, "
            f"but got {len(channels)}."
        )
    if dropout > 0:
        x = layers.SpatialDropout2D(dropout, name="head_dropout")(x)
    for number, ((size, skip), width) in enumerate(zip(steps, channels, strict=False), start=1):
        x = ops.image.resize(x, size, interpolation="bilinear")
        if skip is not None:
            x = layers.Concatenate(name=f"decoder{number}_join")([x, skip])
        x = _convolution(x, width, f"decoder{number}a")
        x = _convolution(x, width, f"decoder{number}b")
    return x


def _steps(features: Sequence[Any], image_size: Size) -> Iterator[tuple[Size, Any]]:
    """Yield the size of each step and the skip it joins, or None."""
    height, width = features[-1].shape[1:3]
    skips = [(tuple(skip.shape[1:3]), skip) for skip in reversed(features[:-1])]
    if not skips or skips[-1][0] != tuple(image_size):
        skips.append((tuple(image_size), None))
    for size, skip in skips:
        # Strides beyond 2, with room for the pixel or two that valid padding takes.
        while size[0] >= 3 * height and size[1] >= 3 * width:
            height, width = 2 * height, 2 * width
            yield (height, width), None
        height, width = size
        yield (height, width), skip


def _convolution(x: Any, channels: int, name: str) -> Any:
    x = layers.Conv2D(
        channels,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_activation")(x)
