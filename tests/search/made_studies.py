"""Small real studies in memory, written as the workers of a search write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study
from optuna.trial import TrialState, create_trial

RATE = "recipe.learning_rate"
OPTIMIZER = "recipe.optimizer.name"
SPACE: dict[str, dict[str, Any]] = {
    RATE: {"low": 1e-4, "high": 3e-2, "log": True},
    OPTIMIZER: {"choices": ["adamw", "sgd"]},
}
DEFAULT = {RATE: 1e-3, OPTIMIZER: "adamw"}


def begin(
    objective: str = "accuracy",
    maximize: bool = True,
    space: Mapping[str, Any] = SPACE,
    **about: Any,
) -> Study:
    """Make a study without trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    about = {"strategy": "bayesian", "num_validation": 400, **about}
    for name, value in {"objective": objective, "space": space, **about}.items():
        study.set_user_attr(name, value)
    return study


def add(
    study: Study,
    *values: float,
    state: TrialState = TrialState.COMPLETE,
    settings: Mapping[str, Any] = DEFAULT,
    curve: Mapping[int, float] | None = None,
    replaces: tuple[int, ...] = (),
    **told: Any,
) -> int:
    """Add a trial with a value a repeat; give its number."""
    space = study.user_attrs["space"]
    params = {key: value for key, value in settings.items() if _holds(space[key], value)}
    is_complete = state == TrialState.COMPLETE
    if is_complete:
        told = {"outcome": "complete", "values": list(values), **told}
    study.add_trial(
        create_trial(
            state=state,
            value=sum(values) / len(values) if is_complete else None,
            params=params,
            distributions={key: _distribution(space[key]) for key in params},
            user_attrs={"settings": dict(settings), **told},
            system_attrs={"retry_history": list(replaces)} if replaces else {},
            intermediate_values=dict(curve or {}),
        )
    )
    return len(study.trials) - 1


def _holds(entry: Mapping[str, Any], value: Any) -> bool:
    if "choices" in entry:
        return value in entry["choices"]
    if value is None or not entry["low"] <= value <= entry["high"]:
        return False
    return "step" not in entry or (value - entry["low"]) % entry["step"] == 0


def _distribution(entry: Mapping[str, Any]) -> BaseDistribution:
    if "choices" in entry:
        return CategoricalDistribution(entry["choices"])
    low, high, log = entry["low"], entry["high"], entry.get("log", False)
    step = entry.get("step", 1)
    if isinstance(low, int) and int(step) == step:
        return IntDistribution(low, high, log=log, step=int(step))
    return FloatDistribution(low, high, log=log, step=entry.get("step"))
