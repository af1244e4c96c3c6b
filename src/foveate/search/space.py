"""The settings that a search varies, and the values they may take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from foveate.config.files import setting_fields, setting_kinds, whole_key, with_settings
from foveate.config.search import RangeConfig, Scalar
from foveate.config.settings import RunConfig
from foveate.errors import ConfigError, nearest

Values = dict[str, Any]

# What all trials must have in common, or no two of them could be compared.
_FIXED = ("search.", "data.splits.", "budget.", "runtime.", "checkpoint.")
_FIXED_KEYS = (
    "seed", "task", "data.image", "data.label", "data.mask", "data.group", "data.split",
    "data.weight", "data.metadata", "data.unreadable", "data.max_unreadable",
)  # fmt: skip


# What a setting that is not set stands for.
_STANDS_FOR: dict[str, Callable[[RunConfig], Scalar]] = {
    "recipe.fine_tune_learning_rate": lambda config: config.recipe.tuned_rate,
    "recipe.unfreeze": lambda config: config.recipe.tuned_share,
}


class Chooser(Protocol):
    """What chooses the values of a trial: an `optuna.Trial`, or what asks another library."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Choose one of these."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        """Choose a whole number; both ends are possible."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        """Choose a number; both ends are possible."""


class Space:
    """What a search may try.

    Args:
        base: All settings; those of no range stay as they are.
        ranges: Values by key; those of `base.search.space` when None.

    Attributes:
        ranges: Values by key, each after those that it depends on.

    Raises:
        ConfigError: A setting does not exist, cannot be varied, or may not have one of the
            values; all problems are listed.
    """

    def __init__(self, base: RunConfig, ranges: Mapping[str, RangeConfig] | None = None) -> None:
        self._base = base
        stated = base.search.space if ranges is None else ranges
        found = {whole_key(key): one for key, one in stated.items()}
        problems = [
            f"  search.space.{key}: {problem}"
            for key, one in found.items()
            for problem in self._problems(key, one)
        ]
        if problems:
            raise ConfigError(
                "\n".join(["A search varies settings of a run, but got:", *problems])
            )
        self.ranges = dict(_by_dependence(found))

    def suggest(self, trial: Chooser, keys: Collection[str] | None = None) -> Values:
        """Have values chosen.

        Args:
            trial: What chooses them, as its parameters of the same names.
            keys: Of what to choose; None for all whose condition holds.

        Returns:
            Values by key.
        """
        values: Values = {}
        for key, one in self.ranges.items():
            if key in keys if keys is not None else self._holds(one, values):
                values[key] = _suggest(trial, key, one, self._is_integer(key, one))
        return values

    def conditions(self, key: str) -> dict[str, tuple[Scalar, ...]] | None:
        """Say on which other ranges one depends.

        Args:
            key: Of the range.

        Returns:
            Their keys, and the values of which each must have one; None where a setting that is
            not varied has another value than is wanted.
        """
        found = {}
        for name, wanted in self.ranges[key].when.items():
            values = wanted if isinstance(wanted, tuple) else (wanted,)
            if name in self.ranges:
                found[name] = values
            elif _plain(_value(self._base, name)) not in values:
                return None
        return found

    def grid(self) -> list[Values]:
        """List all combinations.

        Raises:
            ConfigError: A range has no end of values.
        """
        return list(self._combinations(list(self.ranges), {}))

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """Settings of a run with these values.

        Raises:
            ConfigError: They contradict each other.
        """
        return with_settings(self._base, values)

    def defaults(self) -> Values:
        """The values that the settings have if nothing is searched; None where one is derived."""
        return {key: _plain(_value(self._base, key)) for key in self.ranges} | self.settled()

    def settled(self) -> Values:
        """What the settings that are varied, but not set, stand for, by key."""
        return {
            key: value(self._base)
            for key, value in _STANDS_FOR.items()
            if key in self.ranges and _value(self._base, key) is None
        }

    def defaults_within(self) -> Values:
        """Those of the defaults that lie in their range: what a study can be told of them."""
        defaults, values = self.defaults(), Values()
        for key, one in self.ranges.items():
            if self._holds(one, defaults) and _contains(one, defaults[key]):
                values[key] = defaults[key]
        return values

    def to_dict(self) -> dict[str, Any]:
        """Describe the ranges in JSON values, by key."""
        return {
            key: one.model_dump(mode="json", exclude_defaults=True)
            for key, one in self.ranges.items()
        }

    def _holds(self, one: RangeConfig, values: Mapping[str, Any]) -> bool:
        """Whether a setting is to be varied beside these values."""
        for key, wanted in one.when.items():
            if key in self.ranges and key not in values:
                return False  # it is not varied itself
            value = values[key] if key in values else _plain(_value(self._base, key))
            if value not in (wanted if isinstance(wanted, tuple) else (wanted,)):
                return False
        return True

    def _is_integer(self, key: str, one: RangeConfig) -> bool:
        return float not in setting_kinds(key) and isinstance(one.low, int)

    def _combinations(self, keys: Sequence[str], values: Values) -> Iterator[Values]:
        if not keys:
            yield values
            return
        key, *rest = keys
        one = self.ranges[key]
        if not self._holds(one, values):
            yield from self._combinations(rest, values)
            return
        for value in _grid_values(key, one, self._is_integer(key, one)):
            yield from self._combinations(rest, {**values, key: value})

    def _problems(self, key: str, one: RangeConfig) -> Iterator[str]:
        """Say what is wrong with a range."""
        known = [name for name, _ in setting_fields()]
        for name in (key, *one.when):
            if name not in known:
                yield f"there is no setting {name!r}.{nearest(name, known)}"
                return
        if key in _FIXED_KEYS or key.startswith(_FIXED):
            yield "must be the same in all trials, so that they can be compared"
            return
        integer = self._is_integer(key, one)
        if one.low is not None and float not in setting_kinds(key) and not integer:
            yield f"needs whole numbers or choices, but got {one.low} to {one.high}"
            return
        if integer and one.step is not None and one.step % 1:
            yield f"needs a whole step, as it takes whole numbers, but got {one.step}"
            return
        ends = one.choices if one.low is None else (one.low, one.high)
        for value in ends:
            try:
                with_settings(self._base, {**_conditions(one), key: value})
            except ConfigError as error:
                yield str(error).splitlines()[-1].strip().removeprefix(f"--{key}: ")


def _conditions(one: RangeConfig) -> Values:
    return {
        key: wanted[0] if isinstance(wanted, tuple) else wanted for key, wanted in one.when.items()
    }


def _by_dependence(ranges: Mapping[str, RangeConfig]) -> Iterator[tuple[str, RangeConfig]]:
    """Put each range after those that its conditions name."""
    left = dict(ranges)
    while left:
        ready = [key for key, one in left.items() if not left.keys() & one.when.keys()]
        if not ready:
            raise ConfigError(
                f"Conditions (when) must not depend on each other in a circle, but got "
                f"{', '.join(left)}."
            )
        for key in ready:
            yield key, left.pop(key)


def _suggest(trial: Chooser, key: str, one: RangeConfig, integer: bool) -> Any:
    if one.low is None or one.high is None:
        return trial.suggest_categorical(key, one.choices)
    if integer:
        step = int(one.step or 1)
        return trial.suggest_int(key, int(one.low), int(one.high), step=step, log=one.log)
    return trial.suggest_float(key, float(one.low), float(one.high), step=one.step, log=one.log)


def _grid_values(key: str, one: RangeConfig, integer: bool) -> Sequence[Any]:
    if one.low is None or one.high is None:
        return one.choices
    if one.step is None and not (integer and not one.log):
        raise ConfigError(
            f"A grid needs choices or a step, but got search.space.{key} from {one.low} to "
            f'{one.high}. Name the values: "{key}" = [{one.low}, …, {one.high}].'
        )
    step = one.step or 1
    count = math.floor((one.high - one.low) / step + 1e-9) + 1
    values = itertools.islice((one.low + step * number for number in itertools.count()), count)
    return [int(value) if integer else float(value) for value in values]


def _contains(one: RangeConfig, value: Any) -> bool:
    """Whether a study may fix a parameter to a value."""
    if one.low is None or one.high is None:
        return value in one.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    steps = 0.0 if one.step is None else (value - one.low) / one.step
    return one.low <= value <= one.high and math.isclose(steps, round(steps), abs_tol=1e-9)


def _value(config: RunConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _plain(value: Any) -> Any:
    """Write lists as on the command line: a study knows no others."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
