"""What turns features into logits: pooling, dropout, penalties, float32 at the end."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from foveate.config.settings import ModelConfig


def pool(features: Any, pooling: str) -> Any:
    """Reduce a feature map to one vector.

    Args:
        features: (B, h, w, C), any float type.
        pooling: `average`, `max`, or `both` side by side.

    Returns:
        (B, C), or (B, 2C) for `both`.
    """
    pooled = []
    if pooling in ("average", "both"):
        pooled.append(layers.GlobalAveragePooling2D(name="average_pool")(features))
    if pooling in ("max", "both"):
        pooled.append(layers.GlobalMaxPooling2D(name="max_pool")(features))
    return pooled[0] if len(pooled) == 1 else layers.Concatenate(name="pool")(pooled)


def class_logits(features: Any, config: ModelConfig, num_outputs: int) -> Any:
    """Score a feature vector.

    Args:
        features: (B, C), any float type.
        config: Settings of dropout and penalties.
        num_outputs: Number of logits K.

    Returns:
        (B, K) float32.
    """
    if config.dropout > 0:
        features = layers.Dropout(config.dropout, name="head_dropout")(features)
    return layers.Dense(
        num_outputs, kernel_regularizer=_penalty(config), dtype="float32", name="logits"
    )(features)


def pixel_logits(features: Any, config: ModelConfig, num_outputs: int) -> Any:
    """Score every position of a feature map.

    Args:
        features: (B, H, W, C), any float type.
        config: Settings of penalties.
        num_outputs: Number of logits K.

    Returns:
        (B, H, W, K) float32.
    """
    return layers.Conv2D(
        num_outputs,
        3,
        padding="same",
        kernel_regularizer=_penalty(config),
        dtype="float32",
        name="logits",
    )(features)


def _penalty(config: ModelConfig) -> Any:
    if config.l1 == config.l2 == 0:
        return None
    return keras.regularizers.L1L2(l1=config.l1, l2=config.l2)
