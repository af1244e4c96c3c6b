"""EfficientNet-Lite 0 to 4, which keras.applications lacks: EfficientNet for small devices.

Against EfficientNet (Tan and Le, 2019): no squeeze-and-excitation, ReLU6 for swish, a stem and a
head of fixed width, and a first and last stage of fixed depth. Layers are named as in
`keras.applications.EfficientNetB0`. Source:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from foveate.errors import ConfigError
from foveate.models.torch_file import read_tensors


class Stage(NamedTuple):
    """A row of table 1 in Tan and Le (2019): blocks that share a resolution."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


class Block(NamedTuple):
    """One inverted residual, with the multipliers applied."""

    name: str
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
# (width multiplier, depth multiplier) by variant.
MULTIPLIERS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
NATIVE_SIDES = (224, 240, 260, 280, 300)
STEM_CHANNELS = 32
TOP_CHANNELS = 1280
_DROP_CONNECT = 0.2  # chance that the last block's residual branch is skipped in training
_KERNEL = keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")


def efficientnet_lite(
    variant: int,
    input_shape: tuple[int, int, int],
    include_top: bool = False,
    weights: Path | None = None,
) -> keras.Model:
    """Build an EfficientNet-Lite.

    Args:
        variant: 0 to 4.
        input_shape: (height, width, 3) in pixels.
        include_top: Whether to end in the logits of the 1,000 ImageNet classes.
        weights: An old-format torch file of this variant; random weights without it.

    Returns:
        Model from pixels (B, H, W, 3) scaled by (x - 127) / 128 to the feature map
        (B, H/32, W/32, 1280), or to logits (B, 1000).

    Raises:
        ConfigError: The file does not fit.
    """
    inputs = keras.Input(input_shape)
    x = _convolution(inputs, STEM_CHANNELS, 3, "stem", stride=2)
    blocks = list(_blocks(variant))
    for index, block in enumerate(blocks):
        x = _inverted_residual(x, block, _DROP_CONNECT * index / len(blocks))
    x = _convolution(x, TOP_CHANNELS, 1, "top")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, name="predictions")(x)
    model = keras.Model(inputs, x, name=f"efficientnet_lite{variant}")
    if weights is not None:
        _assign(model, blocks, weights)
    return model


def _round_channels(channels: float) -> int:
    """Round to a multiple of 8, down by no more than 10 %."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _blocks(variant: int) -> Iterator[Block]:
    width, depth = MULTIPLIERS[variant]
    for number, stage in enumerate(STAGES, start=1):
        fixed = number in (1, len(STAGES))
        repeats = stage.repeats if fixed else math.ceil(depth * stage.repeats)
        channels = _round_channels(width * stage.channels)
        for repeat in range(repeats):
            name = f"block{number}{chr(ord('a') + repeat)}"
            stride = stage.stride if repeat == 0 else 1
            yield Block(name, stage.kernel, stride, stage.expansion, channels)


def _convolution(x: Any, channels: int, kernel: int, name: str, stride: int = 1) -> Any:
    x = layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=_KERNEL.clone(),
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6.0, name=f"{name}_activation")(x)


def _inverted_residual(inputs: Any, block: Block, drop: float) -> Any:
    """Expand, filter each channel, project; add the input where the shape is unchanged."""
    x, name = inputs, block.name
    if block.expansion > 1:
        x = _convolution(x, inputs.shape[-1] * block.expansion, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        block.kernel,
        strides=block.stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_KERNEL.clone(),
        name=f"{name}_dwconv",
    )(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    x = layers.ReLU(max_value=6.0, name=f"{name}_activation")(x)
    x = layers.Conv2D(
        block.channels,
        1,
        use_bias=False,
        kernel_initializer=_KERNEL.clone(),
        name=f"{name}_project_conv",
    )(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_project_bn")(x)
    if block.stride > 1 or inputs.shape[-1] != block.channels:
        return x
    if drop > 0:
        # Stochastic depth: one draw a sample.
        x = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    return layers.Add(name=f"{name}_add")([x, inputs])


def _sources(blocks: list[Block]) -> Iterator[tuple[str, str]]:
    """Pair each layer with weights with the prefix of its tensors in the torch file."""
    yield from (("stem_conv", "_conv_stem"), ("stem_bn", "_bn0"))
    for index, block in enumerate(blocks):
        name, source = block.name, f"_blocks.{index}."
        if block.expansion > 1:
            yield f"{name}_expand_conv", f"{source}_expand_conv"
            yield f"{name}_expand_bn", f"{source}_bn0"
        yield f"{name}_dwconv", f"{source}_depthwise_conv"
        yield f"{name}_bn", f"{source}_bn1"
        yield f"{name}_project_conv", f"{source}_project_conv"
        yield f"{name}_project_bn", f"{source}_bn2"
    yield from (("top_conv", "_conv_head"), ("top_bn", "_bn1"), ("predictions", "_fc"))


def _assign(model: keras.Model, blocks: list[Block], path: Path) -> None:
    tensors = read_tensors(path)
    present = {layer.name for layer in model.layers}
    for name, source in _sources(blocks):
        if name not in present:
            continue
        layer = model.get_layer(name)
        try:
            layer.set_weights(_arrays(layer, source, tensors))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{path} must hold the weights of {model.name}, but got another network: {error} "
                f"at layer {name}. Give the file of the same variant."
            ) from error


def _arrays(layer: Any, source: str, tensors: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    if isinstance(layer, layers.BatchNormalization):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [tensors[f"{source}.{part}"] for part in parts]
    kernel = tensors[f"{source}.weight"]
    if isinstance(layer, layers.Dense):
        return [kernel.T, tensors[f"{source}.bias"]]
    if isinstance(layer, layers.DepthwiseConv2D):
        return [np.transpose(kernel, (2, 3, 0, 1))]  # (C, 1, k, k) to (k, k, C, 1)
    return [np.transpose(kernel, (2, 3, 1, 0))]  # OIHW to HWIO
