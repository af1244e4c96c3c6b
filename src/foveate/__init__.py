"""Foveate: say what you have, get the best Keras image model that fits.

Public names are loaded on first use, so importing foveate is quick and does not import Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import polars as pl

    from foveate.config.files import load_config
    from foveate.config.settings import RunConfig
    from foveate.data.loader import BatchLoader
    from foveate.data.manifest import Manifest
    from foveate.models.build import build_model
    from foveate.planning.plan import Plan
    from foveate.runs import Run

__version__ = "0.1.0"
__all__ = [
    "BatchLoader",
    "Manifest",
    "Run",
    "RunConfig",
    "build_model",
    "evaluate",
    "load_config",
    "plan",
    "predict",
    "resume",
    "train",
]

_HOMES = {
    "Manifest": "foveate.data.manifest",
    "Run": "foveate.runs",
    "RunConfig": "foveate.config.settings",
    "load_config": "foveate.config.files",
}
_HOMES_ON_KERAS = {
    "BatchLoader": "foveate.data.loader",
    "build_model": "foveate.models.build",
}


def train(
    data: Any,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    plan: Plan | str | Path | None = None,
) -> Run:
    """Train a model on data and leave a run folder; see `foveate.training.recipe.train`.

    With `progress` the console shows how it goes. A `plan`, or the file of one, is followed.
    """
    from rich.console import Console

    from foveate.config.settings import RunConfig
    from foveate.planning import planner
    from foveate.scale import runtime
    from foveate.training.clock import Clock

    clock, config = Clock(), config or RunConfig()
    console = Console(quiet=not progress)
    with clock.planning():
        source, plan = planner.hold_to_budget(data, config, console, plan)
    config = config if plan is None else plan.apply(config)
    runtime.prepare(config.runtime.backend)
    from foveate.training import recipe

    return recipe.train(source, config, out, console, plan, clock)


def plan(data: Any, config: RunConfig | None = None) -> Plan:
    """Plan a run on data for a budget; see `foveate.planning.planner.make_plan`."""
    from foveate.config.settings import RunConfig
    from foveate.planning import planner

    return planner.make_plan(data, config or RunConfig())[1]


def resume(run: str | Path | Run, progress: bool = True) -> Run:
    """Go on with a run that was stopped; see `foveate.training.recipe.resume`.

    With `progress` the console shows how it goes.
    """
    from rich.console import Console

    from foveate.planning import planner
    from foveate.runs import Run
    from foveate.scale import runtime

    opened = run if isinstance(run, Run) else Run.open(run)
    opened.require_resumable()
    planner.keep_to_processors(opened.config())
    runtime.prepare(opened.backend)
    from foveate.training import recipe

    return recipe.resume(opened.folder, Console() if progress else None)


def evaluate(run: str | Path | Run, split: str = "test") -> dict[str, Any]:
    """Judge a run's model on one of its splits; see `foveate.evaluation.scores.evaluate`."""
    _prepare_for(run)
    from foveate.evaluation import scores

    return scores.evaluate(run, split)


def predict(
    run: str | Path | Run,
    files: Sequence[str | Path],
    masks: str | Path | None = None,
    unreadable: str | None = None,
) -> pl.DataFrame:
    """Predict what files show; see `foveate.evaluation.predict.predict`."""
    _prepare_for(run)
    from foveate.evaluation import predict as prediction

    return prediction.predict(run, files, masks, unreadable)


def _prepare_for(run: str | Path | Run) -> None:
    """Settle the backend that the settings of a run name, before Keras is imported."""
    from foveate.runs import Run
    from foveate.scale import runtime

    opened = run if isinstance(run, Run) else Run.open(run)
    runtime.prepare(opened.config().runtime.backend)


def __getattr__(name: str) -> Any:
    if name in _HOMES_ON_KERAS:
        from foveate.scale import runtime

        runtime.prepare()
        return getattr(importlib.import_module(_HOMES_ON_KERAS[name]), name)
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'foveate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
