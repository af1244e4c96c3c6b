"""A batch size for models of a user's own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from foveate.config.settings import BudgetConfig
from foveate.errors import BudgetError, ConfigError
from foveate.planning.batch_size import find_batch_size
from foveate.planning.memory import resident_bytes
from foveate.scale import runtime

MIB = 1024**2


def network(**compiled: Any) -> keras.Model:
    layers = [keras.Input((64, 64, 3))]
    layers += [keras.layers.Conv2D(32, 3, padding="same", activation="relu") for _ in range(4)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([*layers, keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": "adam", "loss": loss, "metrics": ["accuracy"], **compiled})
    return model


def test_what_is_found_fits_and_leaves_the_model_as_it_was() -> None:
    model = network()
    model.train_on_batch(np.ones((2, 64, 64, 3)), np.zeros(2))
    variables = [*model.variables, *model.optimizer.variables]
    before = [np.array(variable) for variable in variables]
    # A sample needs some 8 MiB here, forward and backward.
    found = find_batch_size(model, BudgetConfig(ram=resident_bytes() + 1024 * MIB), most=256)
    assert 4 <= found <= 256
    assert found & (found - 1) == 0
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


def test_an_optimizer_without_a_step_is_left_without() -> None:
    model = network()
    find_batch_size(model, BudgetConfig(), most=2)
    momenta = [np.array(variable) for variable in model.optimizer.variables[2:]]
    assert momenta
    assert not any(momentum.any() for momentum in momenta)


def test_an_accelerator_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class ResourceExhaustedError(Exception):
        pass

    def step(self: keras.Model, images: np.ndarray, targets: np.ndarray) -> None:
        if len(images) > most:
            raise ResourceExhaustedError

    monkeypatch.setattr(keras.Model, "train_on_batch", step)
    most = 4
    assert find_batch_size(network(), BudgetConfig(), most=64) == 4
    most = 0
    with pytest.raises(BudgetError, match="accelerator must hold a batch of one sample"):
        find_batch_size(network(), BudgetConfig())


def test_the_most_is_kept() -> None:
    assert find_batch_size(network(), BudgetConfig(), most=4) == 4


def test_a_batch_of_the_users_own() -> None:
    model = network(loss="mse")
    batch = np.zeros((3, 64, 64, 3), "float32"), np.zeros((3, 3), "float32"), np.ones(3)
    assert find_batch_size(model, BudgetConfig(), batch, most=2) == 2


def test_not_even_one_sample() -> None:
    with pytest.raises(
        BudgetError, match=r"one sample, which takes .* but got budget\.ram 100 MiB"
    ):
        find_batch_size(network(), BudgetConfig(ram=100 * MIB))


def test_the_limit_that_is_not_kept_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "peak_device_bytes", lambda: 2048 * MIB)
    with pytest.raises(BudgetError, match=r"takes 2\.00 GiB .* got budget\.gpu_memory 1\.00 GiB"):
        find_batch_size(network(), BudgetConfig(gpu_memory=1024 * MIB))


def test_an_uncompiled_model() -> None:
    with pytest.raises(ConfigError, match="must be compiled"):
        find_batch_size(keras.Sequential([keras.layers.Dense(1)]), BudgetConfig())


def test_open_shapes_need_a_batch() -> None:
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    model.compile("sgd", "mse")
    with pytest.raises(ConfigError, match="shape is open"):
        find_batch_size(model, BudgetConfig())
