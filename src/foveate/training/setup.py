"""What a run works with, from its data and its settings."""

from __future__ import annotations

from typing import Any

import keras
from rich.console import Console

from foveate.config.recipe import StoppingConfig
from foveate.config.settings import RunConfig
from foveate.errors import ConfigError, nearest
from foveate.models.build import build_model
from foveate.planning.guard import MemoryGuard
from foveate.planning.plan import Plan
from foveate.planning.reckon import END_SECONDS
from foveate.runs import Run
from foveate.scale import runtime
from foveate.scale.allocation import settle_allocation
from foveate.training.checkpoint import Checkpoint
from foveate.training.clock import Clock, Pace, RunTime
from foveate.training.fitting import Work
from foveate.training.memory import memory_limit
from foveate.training.prepare import Prepared, prepare
from foveate.training.progress import announce, counting
from foveate.training.resizing import settle_sizes
from foveate.training.tally import Tally
from foveate.training.views import settle_views

_LEAST_END = 9.0  # seconds; twice what it took on an idle machine
_BUILD_SECONDS = 0.004
"""To build a network with each of its variables, on the machine of `END_SECONDS` while idle."""
_SLOWEST = 4.0  # times as slow as that; more is no sign of a slow machine but of a download
_BUILDS_AT_END = 1.5  # times building it: it is saved, and loaded again to be judged


def set_up(
    run: Run,
    data: Any,
    config: RunConfig,
    console: Console,
    clock: Clock,
    checkpoint: Checkpoint | None = None,
    plan: Plan | None = None,
) -> Work:
    """Read the data, build the model, check what can be checked.

    Args:
        run: Where everything will go; nothing is written yet.
        data: As for `foveate.training.recipe.train`.
        config: The settings.
        console: Where progress is shown.
        clock: Counts the time of the run.
        checkpoint: Where to go on, if the run is not new.
        plan: What was measured before.

    Returns:
        All that the run works with; its settings leave nothing open.
    """
    settle_allocation(config)
    with counting(console, "reading masks") as report:
        prepared = prepare(data, config, report)
    config = _within_an_epoch(config, prepared)
    announce(console, prepared, config)
    keras.utils.set_random_seed(config.seed)
    began = clock.spent
    with runtime.dtype_policy(config.recipe.precision):
        model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
    end = end_seconds(clock.spent - began, len(model.variables))
    if checkpoint is None:  # else all was settled, and what is free on the disk may have changed
        config = settle_views(settle_sizes(config, prepared, model), prepared, model)
    tally = Tally(clock, MemoryGuard(memory_limit(config)))
    planned = plan.validation_seconds if plan else None
    time = _time(config, prepared, clock, end, checkpoint is not None, planned)
    stopping = settle_stopping(config, prepared)
    return Work(run, config, prepared, model, stopping, console, tally, time)


def _within_an_epoch(config: RunConfig, prepared: Prepared) -> RunConfig:
    """Let a step have no more batches than there are rows to make them of."""
    most = prepared.rows("train").num_samples * config.loader.repeat
    if config.gradient_accumulation_steps <= most:
        return config
    size = most * config.batch_size
    step = {"gradient_accumulation_steps": most, "effective_batch_size": size}
    return config.model_copy(update={"recipe": config.recipe.model_copy(update=step)})


def _time(
    config: RunConfig,
    prepared: Prepared,
    clock: Clock,
    end: float,
    is_resumed: bool,
    planned: float | None,
) -> RunTime | None:
    """What the run may take; samples of the test split, or those in its place, are judged."""
    if config.budget.time is None:
        return None
    judged = prepared.num_judged("test") or prepared.num_judged("validation")
    pace = Pace(config.batch_size, prepared.rows("validation").num_samples, planned)
    return RunTime(config.budget.time, clock, pace, judged, end, is_resumed)


def end_seconds(build_seconds: float, num_variables: int) -> float:
    """Estimate what follows training, but for judging: saving, loading, reporting, the exit.

    Like building the network, all of that is Python at work, and slow where building was: on a
    slow machine, or one that others use as well.

    Args:
        build_seconds: What building the network took.
        num_variables: How many weights and states it has, which a machine builds at one pace.

    Returns:
        Seconds.
    """
    usual = _BUILD_SECONDS * num_variables
    slowness = min(max(build_seconds / usual, 1.0), _SLOWEST)
    return max(slowness * (END_SECONDS + _BUILDS_AT_END * usual), _LEAST_END)


def settle_stopping(config: RunConfig, prepared: Prepared) -> StoppingConfig:
    """Check what is watched; without a validation split the training loss stands in.

    Raises:
        ConfigError: Nothing of that name is measured.
    """
    stopping = config.recipe.stopping
    measured = ["loss"]
    measured += [getattr(m, "name", None) or m.__name__ for m in prepared.task.metrics()]
    if prepared.manifest.split("validation").num_samples:
        measured += [f"val_{name}" for name in measured]
    elif stopping.monitor == "val_loss":
        return stopping.model_copy(update={"monitor": "loss"})
    if stopping.monitor not in measured:
        raise ConfigError(
            f"recipe.stopping.monitor must be one of {measured}, but got {stopping.monitor!r}."
            f"{nearest(stopping.monitor, measured)}"
        )
    return stopping
