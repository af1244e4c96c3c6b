"""From settings to a Keras optimizer for one stage."""

from __future__ import annotations

from typing import Any

import keras

from foveate.config.recipe import RecipeConfig


def make_optimizer(
    config: RecipeConfig, rate: float, model: keras.Model, accumulation: int = 1
) -> keras.Optimizer:
    """Make the optimizer of a stage.

    Args:
        config: Update rule, weight decay, clipping.
        rate: Peak learning rate.
        model: Its trainable variables as they are in this stage. Vectors among them (biases,
            normalization) are never decayed.
        accumulation: Batches whose gradients are averaged into one step.

    Returns:
        A new optimizer without state.
    """
    wanted = config.optimizer
    shared: dict[str, Any] = {
        "learning_rate": rate,
        "global_clipnorm": wanted.clip_norm,
        "gradient_accumulation_steps": accumulation if accumulation > 1 else None,
    }
    match wanted.name:
        case "adam":
            return keras.optimizers.Adam(**shared)
        case "rmsprop":
            return keras.optimizers.RMSprop(momentum=wanted.momentum, **shared)
        case "sgd":
            optimizer = keras.optimizers.SGD(
                momentum=wanted.momentum,
                nesterov=wanted.momentum > 0,
                weight_decay=wanted.weight_decay or None,
                **shared,
            )
        case "adamw":
            optimizer = keras.optimizers.AdamW(weight_decay=wanted.weight_decay, **shared)
    vectors = [variable for variable in model.trainable_variables if len(variable.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    return optimizer
