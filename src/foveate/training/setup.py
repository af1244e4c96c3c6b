"""What a run works with, from its data and its settings."""

from __future__ import annotations

from time import process_time
from typing import Any

import keras
from rich.console import Console

from foveate.config.recipe import StoppingConfig
from foveate.config.settings import RunConfig
from foveate.errors import ConfigError, nearest
from foveate.models.build import build_model
from foveate.planning.guard import MemoryGuard
from foveate.planning.plan import Plan
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

_SLOWEST = 3.0  # times as slow as an idle machine; more was hardly measured right


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
    announce(console, prepared, config)
    keras.utils.set_random_seed(config.seed)
    began, computed = clock.spent, process_time()
    with runtime.dtype_policy(config.recipe.precision):
        model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
    # One thread computes here, and nothing is waited for but processors that others use, too.
    slowness = min(
        max((clock.spent - began) / max(process_time() - computed, 1e-9), 1.0), _SLOWEST
    )
    config = settle_views(settle_sizes(config, prepared, model), prepared, model)
    tally = Tally(clock, MemoryGuard(memory_limit(config)))
    planned = plan.validation_seconds if plan else None
    time = _time(config, prepared, clock, checkpoint is not None, slowness, planned)
    stopping = settle_stopping(config, prepared)
    return Work(run, config, prepared, model, stopping, console, tally, time)


def _time(
    config: RunConfig,
    prepared: Prepared,
    clock: Clock,
    is_resumed: bool,
    slowness: float,
    planned: float | None,
) -> RunTime | None:
    """What the run may take; samples of the test split, or those in its place, are judged."""
    if config.budget.time is None:
        return None
    judged = prepared.num_judged("test") or prepared.num_judged("validation")
    pace = Pace(config.batch_size, prepared.rows("validation").num_samples, planned)
    return RunTime(config.budget.time, clock, pace, judged, is_resumed, slowness)


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
