"""A space in the words of Keras Tuner: ranges as hyperparameters, conditions as scopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import keras_tuner

from foveate.config.search import RangeConfig, Scalar
from foveate.errors import ConfigError, listed
from foveate.search.space import Space, Values

Scopes = list[tuple[str, list[Scalar]]]
"""Hyperparameters from the outermost in, and the values of which each must have one."""


class HyperSpace:
    """Has Keras Tuner choose from a space.

    Args:
        space: What is varied, and how.

    Raises:
        ConfigError: Conditions that Keras Tuner cannot state.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._scopes = {
            key: scopes for key in space.ranges if (scopes := _scopes(space, key)) is not None
        }

    def choose(self, hp: keras_tuner.HyperParameters) -> Values:
        """Give the values of a trial.

        Args:
            hp: Where the tuner has put them; ranges that it does not know yet are added.

        Returns:
            Values by key, of the settings whose conditions hold.
        """
        chooser = _Chooser(hp, self._scopes, self._space.defaults_within())
        chosen = self._space.suggest(chooser, self._scopes)
        return {key: value for key, value in chosen.items() if value is not None}


class _Chooser:
    """Asks Keras Tuner as a space would ask Optuna; gets None where a condition does not hold."""

    def __init__(
        self,
        hp: keras_tuner.HyperParameters,
        scopes: Mapping[str, Scopes],
        defaults: Mapping[str, Any],
    ) -> None:
        self._hp, self._scopes, self._defaults = hp, scopes, defaults

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Any:
        told, options = _alike(choices), {}
        if name in self._defaults and self._defaults[name] in choices:
            options["default"] = told[choices.index(self._defaults[name])]
        if isinstance(told[0], bool):
            return self._ask(self._hp.Boolean, name, **options)
        return self._ask(self._hp.Choice, name, values=told, **options)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        # Along with logarithms Keras Tuner takes a step for a factor.
        options: dict[str, Any] = {"sampling": "log"} if log else {"step": step}
        return self._ask(self._hp.Int, name, **self._limits(name, low, high), **options)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        if step is not None:
            return self.suggest_categorical(name, _steps(low, high, step))
        sampling = "log" if log else "linear"
        value = self._ask(self._hp.Float, name, **self._limits(name, low, high), sampling=sampling)
        return value if value is None else float(value)  # NumPy's numbers are no settings

    def _limits(self, name: str, low: float, high: float) -> dict[str, Any]:
        return {"min_value": low, "max_value": high, "default": self._defaults.get(name)}

    def _ask(self, kind: Callable[..., Any], name: str, **options: Any) -> Any:
        with ExitStack() as stack:
            for parent, values in self._scopes[name]:
                stack.enter_context(self._hp.conditional_scope(parent, values))
            return kind(name, **options)


def _scopes(space: Space, key: str) -> Scopes | None:
    """Find the conditions of a range, and of those that it depends on; None if they never hold.

    Raises:
        ConfigError: There is more than one: in Keras Tuner a scope lies in one other.
    """
    conditions = space.conditions(key)
    if conditions is None:
        return None
    if len(conditions) > 1:
        raise ConfigError(
            f"In Keras Tuner a setting may depend on one other that is varied, but got "
            f"search.space.{key} that depends on {listed(list(conditions))}. Name the last alone "
            "where one depends on the other, or use foveate search."
        )
    for parent, wanted in conditions.items():
        above, values = _scopes(space, parent), _told(space.ranges[parent], wanted)
        return None if above is None or not values else [*above, (parent, values)]
    return []


def _told(parent: RangeConfig, wanted: Sequence[Scalar]) -> list[Scalar]:
    """Say the values of a condition as Keras Tuner is told those of the range."""
    if parent.low is not None:
        return list(wanted)
    told = _alike(parent.choices)
    return [told[parent.choices.index(value)] for value in wanted if value in parent.choices]


def _alike(choices: Sequence[Scalar]) -> list[Any]:
    """Make choices of one type, as Keras Tuner has them: settings may be texts as well."""
    kinds = set(map(type, choices))
    if kinds == {int, float}:
        return [float(one) for one in choices]
    # Its choices know no truth values; its truth values are always both.
    if len(kinds) > 1 or (kinds == {bool} and len(choices) == 1):
        return [str(one) for one in choices]
    return list(choices)


def _steps(low: float, high: float, step: float) -> list[float]:
    """List the values of a range; Keras Tuner's own steps lose the last one to rounding."""
    count = math.floor((high - low) / step + 1e-9) + 1
    return [float(f"{low + step * number:.12g}") for number in range(count)]
