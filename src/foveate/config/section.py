"""What all settings classes share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _to_seconds(value: Any) -> Any:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip())
    return float(match[1]) * _UNITS[match[2]] if match else value


Seconds = Annotated[float, BeforeValidator(_to_seconds), Field(gt=0.0)]
"""A length of time: a number of seconds, or a text such as ``90s``, ``10m``, ``1.5h``."""


Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A part of a whole, 0 to 1."""


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused, docstrings document fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ShortSection(Section):
    """A group that may also be written as the value of one field alone.

    Attributes:
        short: That field.
    """

    short: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _from_value(cls, value: Any) -> Any:
        is_group = isinstance(value, Mapping | Section)
        return value if is_group else {cls.short: value}


class NamedSection(ShortSection):
    """A group with a field `name` that may also be written as that name alone."""

    short = "name"


def square(value: Any) -> Any:
    """Read a (height, width), of which a square may be written as one number."""
    is_one = isinstance(value, int | str) or (isinstance(value, list | tuple) and len(value) == 1)
    if not is_one:
        return value
    side = value if isinstance(value, int | str) else value[0]
    return side, side
