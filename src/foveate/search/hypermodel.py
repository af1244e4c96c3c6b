"""The runs of a search as a `keras_tuner.HyperModel`; `foveate.search.keras_tuner` makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import keras_tuner

from foveate.config.files import with_settings
from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.errors import ConfigError
from foveate.models.build import build_model
from foveate.scale import runtime
from foveate.search.hyperparameters import HyperSpace
from foveate.search.space import Space
from foveate.training.best import BestEpoch
from foveate.training.callbacks import LearningRate
from foveate.training.checkpoint import load_weights
from foveate.training.fitting import compile_stage, loaders_own_errors
from foveate.training.prepare import Prepared, prepare
from foveate.training.setup import settle_stopping
from foveate.training.stages import Stage, plan_stages

Part = tuple[Stage, range, range]
"""A stage, all its epochs, and those of them that are trained."""


class SearchError(ConfigError, keras_tuner.errors.FatalError):
    """What was asked of a tuner cannot be done; it ends the search, not the trial alone."""


class RunHyperModel(keras_tuner.HyperModel):
    """Runs with other settings in each trial, for a tuner of Keras Tuner.

    Hyperparameters are named as the settings, and have their values as defaults where these lie
    in the range. A setting whose condition does not hold is none of the trial.

    A trial trains what a run trains: the same model, samples, augmentation, stages, rates and
    early stopping, and each stage begins from the best epoch before. The tuner judges epochs by
    its objective, not by `recipe.stopping.monitor`, and keeps the weights of the best. Unlike a
    run, the frozen stage goes over the images themselves instead of stored features, and weights
    alone are kept between the rounds of Hyperband, no state of the optimizer.

    A trial that is executed again (`executions_per_trial`, retries, the next round of Hyperband)
    has another seed each time. What a tuner itself would compile with (`optimizer`, `loss`,
    `metrics`) is settled by the settings.

    Args:
        space: What is varied, and how, and all other settings.
        manifest: All samples, with their splits.
        objective: Name of the measure that is to become largest, such as ``val_accuracy``.

    Attributes:
        objective: What to give a tuner as its objective.

    Raises:
        ConfigError: Conditions that Keras Tuner cannot state.
    """

    def __init__(self, space: Space, manifest: Manifest, objective: str) -> None:
        super().__init__()
        self.objective = keras_tuner.Objective(objective, "max")
        self._space, self._choices, self._manifest = space, HyperSpace(space), manifest
        self._fits: Counter[str] = Counter()
        self._last: tuple[RunConfig, Prepared] | None = None

    def config(self, hp: keras_tuner.HyperParameters) -> RunConfig:
        """Give the settings of a run with these values, ready for `foveate.train`.

        Args:
            hp: Such as ``tuner.get_best_hyperparameters()[0]``.

        Raises:
            ConfigError: They contradict each other.
        """
        return self._space.config(self._choices.choose(hp))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build the model of a run, compiled for its first stage.

        Args:
            hp: The values; ranges that it does not know yet are added.

        Returns:
            What `foveate.models.build.build_model` returns.
        """
        config, prepared = self._next(hp)
        with runtime.dtype_policy(config.recipe.precision):
            model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
        compile_stage(model, plan_stages(config)[0], prepared, config)
        return model

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        *args: Any,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        epochs: int | None = None,
        initial_epoch: int = 0,
        verbose: Any = "auto",
        **others: Any,
    ) -> keras.callbacks.History:
        """Train the stages of a run in turn, streaming its samples.

        Epochs are counted through all stages. Where a tuner says with which to begin and to end
        (Hyperband), those of the run are trained; what goes beyond its end prolongs the last
        stage. The learning rate is what it would be there in the whole run.

        Args:
            hp: The values that the model was built with.
            model: What `build` returned.
            args: None: the samples are known.
            callbacks: Further ones, such as those of the tuner.
            epochs: The epoch to end with; that of the run when None.
            initial_epoch: The epoch to begin with.
            verbose: As for `keras.Model.fit`.
            others: None: the settings say how to train.

        Returns:
            Losses and metrics of all epochs, ``val_…`` those of the validation split.

        Raises:
            SearchError: There are other arguments, or no epochs.
            RunError: The loss left the finite numbers.
            SampleError: A file cannot be read.
        """
        if args or others:
            raise SearchError(
                "The settings say what to train on and how: search() takes callbacks, epochs, "
                "initial_epoch and verbose, but got "
                f"{', '.join([*(['data'] if args else []), *others])}."
            )
        config, prepared = self._next(hp)
        parts = list(epochs_by_stage(plan_stages(config), initial_epoch, epochs))
        if not parts:
            raise SearchError(
                f"There must be epochs to train, but got {initial_epoch=} and {epochs=}. The "
                "settings recipe.epochs and recipe.fine_tune_epochs say how many a run has."
            )
        self._fits[_fingerprint(self.config(hp))] += 1
        return _train(model, parts, config, prepared, callbacks, verbose)

    def _next(self, hp: keras_tuner.HyperParameters) -> tuple[RunConfig, Prepared]:
        """What to train next with these values: its seed is new whenever they were trained."""
        config = self.config(hp)
        seed = config.seed + self._fits[_fingerprint(config)]
        config = with_settings(config, {"seed": seed})
        if self._last is None or self._last[0] != config:  # `build` and `fit` ask for the same
            self._last = config, prepare(self._manifest, config)
        return self._last


def _fingerprint(config: RunConfig) -> str:
    return config.model_dump_json()


def epochs_by_stage(stages: Sequence[Stage], first: int, last: int | None) -> Iterator[Part]:
    """Divide epochs among stages.

    Args:
        stages: All of a run.
        first: The epoch to begin with, from 0 over all stages.
        last: The epoch to end before; the end of the run when None.
    """
    ends = list(accumulate(stage.epochs or 0 for stage in stages))
    last = ends[-1] if last is None else last
    ends[-1] = max(ends[-1], last)
    for stage, begin, end in zip(stages, [0, *ends], ends, strict=False):
        if trained := range(max(begin, first), min(end, last)):
            yield stage, range(begin, end), trained


def _train(
    model: keras.Model,
    parts: Sequence[Part],
    config: RunConfig,
    prepared: Prepared,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: Any,
) -> keras.callbacks.History:
    """Train each part from the best epoch before it."""
    stopping, history = settle_stopping(config, prepared), keras.callbacks.History()
    with (
        TemporaryDirectory() as folder,
        closing(prepared.loader("train", config)) as train,
        closing(prepared.loader("validation", config)) as validation,
        loaders_own_errors(train, validation),
    ):
        path = Path(folder) / "best.npz"
        best = BestEpoch(stopping, path)
        best.watch(model, compares=True)
        train.resume_at(parts[0][2].start * len(train))
        for stage, whole, trained in parts:
            best.start_stage()
            if best.value is not None:
                load_weights(model, path)
            compile_stage(model, stage, prepared, config)
            rate = LearningRate(
                config.recipe.schedule,
                stage.learning_rate,
                len(whole) * len(train),
                stopping.monitor,
                config.gradient_accumulation_steps,
            )
            seen = (trained.start - whole.start) * len(train)
            rate.set_state({**rate.get_state(), "seen": seen})
            model.fit(
                train,
                validation_data=validation,
                initial_epoch=trained.start,
                epochs=trained.stop,
                callbacks=[rate, best, *callbacks, history],
                shuffle=False,
                verbose=verbose,
            )
    return history
