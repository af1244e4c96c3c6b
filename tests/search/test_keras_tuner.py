"""Keras Tuner's own tuners on the runs of a search."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foveate
from foveate.config.files import load_config, to_toml, with_settings
from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.errors import ConfigError, MissingDependencyError
from foveate.search.hypermodel import RunHyperModel, SearchError, epochs_by_stage
from foveate.search.hyperparameters import HyperSpace
from foveate.search.keras_tuner import hypermodel
from foveate.search.space import Space
from foveate.training.stages import Stage

pytestmark = [
    # What Keras Tuner calls is deprecated in Python, though not gone.
    pytest.mark.filterwarnings(r"ignore:(currentThread|getName)\(\) is deprecated"),
    # It loads weights into a new model, whose optimizer has no state yet.
    pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer"),
]

RATES = "1e-4..1e-2 log"
MOMENTUM = '{ low = 0.8, high = 0.99, when = { "recipe.optimizer.name" = "sgd" } }'


def plain(input_shape: tuple[int, int, int]) -> keras.Model:
    """A backbone that takes TensorFlow little time to compile."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs / 255)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def small(tiny_config: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """Makes settings of a run of a second, whose space is the given one."""
    settings = {
        "model__backbone": f"{__name__}:plain",
        "data__image_size": 8,
        "data__batch_size": 40,
        "recipe__epochs": 2,
    }
    return lambda **flags: tiny_config(**{**settings, **flags})


@pytest.fixture(scope="module")
def runs(small: Callable[..., RunConfig], digit_folders: Path) -> RunHyperModel:
    config = small(
        search__space__recipe__learning_rate=RATES,
        search__space__recipe__optimizer__name="adamw,sgd",
        search__space__recipe__optimizer__momentum=MOMENTUM,
        search__space__model__dropout="0..0.5 step 0.1",
    )
    return hypermodel(config, digit_folders)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What any model was fitted on: the arguments of `fit`."""
    seen = []
    fit = keras.Model.fit

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        seen.append((*args, options))
        return fit(self, *args, **options)

    monkeypatch.setattr(keras.Model, "fit", spy)
    return seen


TUNERS = {
    "RandomSearch": {"max_trials": 2},
    "BayesianOptimization": {"max_trials": 3, "num_initial_points": 1},
    "Hyperband": {"max_epochs": 2, "factor": 2},
    "GridSearch": {"max_trials": 2},
}


@pytest.mark.parametrize("name", TUNERS)
def test_a_tuner_runs_to_the_end(
    name: str, runs: RunHyperModel, fitted: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    tuner = getattr(keras_tuner, name)(
        runs, runs.objective, seed=0, directory=tmp_path, **TUNERS[name]
    )
    tuner.search(verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert {trial.status for trial in trials} == {"COMPLETED"}
    assert len(trials) == TUNERS[name].get("max_trials", 5)  # 2 + 1 promoted, then 2 more
    for loader, options in fitted:
        assert isinstance(loader, BatchLoader)
        assert isinstance(options["validation_data"], BatchLoader)
    for trial in trials:
        config = runs.config(trial.hyperparameters)
        assert 1e-4 <= config.recipe.learning_rate <= 1e-2
        assert config.model.dropout in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
        values = trial.hyperparameters.values
        has_momentum = "recipe.optimizer.momentum" in values
        assert has_momentum == (values["recipe.optimizer.name"] == "sgd")
