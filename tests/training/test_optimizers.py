from typing import Any

import keras
import numpy as np
import pytest

from foveate.config.recipe import RecipeConfig
from foveate.training.optimizers import make_optimizer


def model_of_one_layer() -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.layers[0].bias.assign(np.ones(3, "float32"))
    return model


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimizer_takes_a_step(name: str) -> None:
    model = model_of_one_layer()
    recipe = RecipeConfig.model_validate({"optimizer": name})
    model.compile(make_optimizer(recipe, 0.1, model), "mse")
    before = model.get_weights()
    model.train_on_batch(np.ones((2, 4), "float32"), np.zeros((2, 3), "float32"))
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_decay_spares_biases(name: str) -> None:
    """With a gradient of zero only decay moves weights."""
    model = model_of_one_layer()
    recipe = RecipeConfig.model_validate({"optimizer": {"name": name, "weight_decay": 0.5}})
    optimizer = make_optimizer(recipe, 0.1, model)
    kernel, bias = model.get_weights()
    zeros = [keras.ops.zeros_like(variable) for variable in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    np.testing.assert_allclose(model.get_weights()[0], kernel * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal(model.get_weights()[1], bias)


def test_clipping_bounds_the_step() -> None:
    model = model_of_one_layer()
    recipe = RecipeConfig.model_validate(
        {"optimizer": {"name": "sgd", "momentum": 0, "weight_decay": 0, "clip_norm": 1.0}}
    )
    optimizer = make_optimizer(recipe, 0.1, model)
    before = model.get_weights()
    large = [keras.ops.ones_like(v) * 1000 for v in model.trainable_variables]
    optimizer.apply(large, model.trainable_variables)
    moved = [a - b for a, b in zip(before, model.get_weights(), strict=True)]
    norm = np.sqrt(sum((part**2).sum() for part in moved))
    assert norm == pytest.approx(0.1, rel=1e-3)  # rate times the clipped norm
