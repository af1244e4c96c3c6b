"""A small network to train from scratch: little data, small images, quick baselines."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

CHANNELS = (32, 64, 128, 256)
_SMALL_SIDE = 64  # images up to here keep their resolution in the first stage
_LEAST_POOLED_SIDE = 4  # pooling stops below, so that at least 2 x 2 positions remain


def simple_cnn(
    input_shape: tuple[int, int, int], include_top: bool = False, weights: None = None
) -> keras.Model:
    """Build four stages of convolution, batch normalization and ReLU with pooling between.

    The resolution decides what a convolution costs: the first stage, the only one at full
    resolution, has a single cheap convolution, and a stride of 2 where the image's shorter side
    is over 64 pixels.

    Args:
        input_shape: (height, width, channels), at least 8 x 8 pixels.
        include_top: As in keras.applications; there is no classification top, so always False.
        weights: As in keras.applications; there are none, so always None.

    Returns:
        Model from scaled pixels (B, H, W, channels) to the feature map (B, h, w, 256), with h
        and w at least 2.
    """
    del include_top, weights
    inputs = keras.Input(input_shape)
    stride = 1 if min(input_shape[:2]) <= _SMALL_SIDE else 2
    x = _convolution(inputs, CHANNELS[0], "block1a", stride)
    for stage, channels in enumerate(CHANNELS[1:], start=2):
        if min(x.shape[1:3]) >= _LEAST_POOLED_SIDE:
            x = layers.MaxPooling2D(2, name=f"block{stage}_pool")(x)
        x = _convolution(x, channels, f"block{stage}a")
        x = _convolution(x, channels, f"block{stage}b")
    return keras.Model(inputs, x, name="simple_cnn")


def _convolution(x: Any, channels: int, name: str, stride: int = 1) -> Any:
    x = layers.Conv2D(
        channels,
        3,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    # A momentum of 0.9: runs from scratch are short, and statistics must settle within them.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_activation")(x)
