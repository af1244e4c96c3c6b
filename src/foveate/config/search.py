"""What a search varies, how, and for how long."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from foveate.config.section import Seconds, Section

Scalar = bool | int | float | str
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_INTERVAL = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(\s+log)?(?:\s+step\s+({_NUMBER}))?")


class RangeConfig(Section):
    """The values that one setting may take."""

    low: int | float | None = None
    """Smallest value."""
    high: int | float | None = None
    """Largest value."""
    log: bool = False
    """Whether orders of magnitude are equally likely, not values."""
    step: Annotated[float, Field(gt=0.0)] | None = None
    """Distance of neighbouring values."""
    choices: tuple[Scalar, ...] = ()
    """The values themselves, instead of `low` and `high`; lists as on the command line."""
    when: dict[str, Scalar | tuple[Scalar, ...]] = Field({})
    """Settings and the value, or values, that they must have for this one to be varied."""

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return {"choices": value}
        return range_from_text(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> RangeConfig:
        if bool(self.choices) == (self.low is not None) or (self.low is None) != (
            self.high is None
        ):
            raise ValueError("a range needs low and high, or choices")
        if self.low is None or self.high is None:
            if self.log or self.step:
                raise ValueError("log and step go with low and high, not with choices")
            if len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError(f"choices must differ, but got {list(self.choices)}")
            return self
        if not self.low < self.high:
            raise ValueError(f"low must be below high, but got {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("log needs a low above 0, and no step")
        return self


def range_from_text(text: str) -> dict[str, Any]:
    """Read a range as it is written on the command line.

    Args:
        text: ``1e-4..3e-2 log``, ``16..64 step 16``, ``adam,sgd``, or a TOML table
            ``{ low = 1, high = 3, when = { "model.fusion" = "film" } }``.

    Returns:
        The fields of a `RangeConfig`.

    Raises:
        ValueError: It is neither.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            table: dict[str, Any] = tomllib.loads(f"range = {text}")["range"]
        except tomllib.TOMLDecodeError as error:
            raise ValueError(
                f"a range in braces must be TOML, but got {text!r}: {error}"
            ) from None
        return table
    if match := _INTERVAL.fullmatch(text):
        low, high, log, step = match.groups()
        return {
            "low": _scalar(low),
            "high": _scalar(high),
            "log": bool(log),
            "step": step and _scalar(step),
        }
    if ".." in text:
        raise ValueError(
            f"a range must read like '1e-4..3e-2 log' or '16..64 step 16', but got {text!r}"
        )
    return {"choices": [_scalar(part.strip()) for part in text.split(",") if part.strip()]}


def _scalar(text: str) -> Scalar:
    named = {"true": True, "false": False}
    if text.lower() in named:
        return named[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _flat(value: Any) -> Any:
    """Join the keys of nested tables: TOML reads `recipe.epochs = …` as a table in a table."""
    return dict(_leaves(value, "")) if isinstance(value, Mapping) else value


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        is_range = isinstance(value, Mapping) and value.keys() & RangeConfig.model_fields.keys()
        if isinstance(value, Mapping) and not is_range:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class SearchBudgetConfig(Section):
    """What a search may take."""

    time: Seconds | None = None
    """Longest time from start to report: seconds, or a text such as "30m", "8h"."""
    trial_time: Seconds | None = None
    """Time after which a run of a trial counts as hung and is ended; when not set five times what
    the slowest trial so far has taken, at least ten minutes."""


class SearchConfig(Section):
    """Which settings to try."""

    space: Annotated[dict[str, RangeConfig], BeforeValidator(_flat)] = Field({})
    """Settings to vary, by key: `"recipe.learning_rate" = "1e-4..3e-2 log"`, `"model.dropout" =
    "0..0.5"`, `"recipe.optimizer.name" = ["adamw", "sgd"]`; when empty, what usually matters."""
    strategy: Literal["grid", "random", "bayesian", "gaussian_process"] = "bayesian"
    """How the next trial is chosen: all combinations; at random; by what the trials before have
    shown (tree-structured Parzen estimator); or by a Gaussian process (needs torch)."""
    trials: PositiveInt | None = None
    """How many to make; when not set 20, with search.budget.time as many as fit, on a grid all."""
    objective: str = "auto"
    """Score of the validation split to make best; `auto` is accuracy, or mean_iou for masks."""
    pruning: Literal["auto", "none", "median", "asha", "hyperband"] = "auto"
    """Which trials are ended early; `auto` is median where the objective is told every epoch."""
    proxy: Literal["none", "frozen", "small", "share"] = "none"
    """Cheap run that decides whether a trial is run in full: its frozen stage alone, half the
    image size, or a quarter of the training samples; dropped where it ranks settings otherwise
    than full runs do."""
    repeats: PositiveInt = 1
    """Runs of each trial, with different seeds; their mean counts."""
    workers: PositiveInt = 1
    """Trials at once; each gets its part of memory and processors."""
    retrain: bool = False
    """Whether to train with the best settings on train and validation together in the end, and
    to judge that on the test split, once."""
    storage: str | None = None
    """URL of the database that workers share, such as "postgresql://user:${PASSWORD}@host/name",
    where ${PASSWORD} is taken from the environment and not stored; a file in the study's folder
    when not set."""
    budget: SearchBudgetConfig = SearchBudgetConfig()
    """What the search may take."""
