"""What the pages share: one look, one way to write numbers, no network and no script."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_SPELLINGS = {"iou": "IoU", "roc": "ROC", "auc": "AUC", "f1": "F1"}


def render(template: str, content: Mapping[str, Any], package: str = "foveate.report") -> str:
    """Fill a template.

    Args:
        template: Its file name; it may extend, include and import those of `foveate.report`.
        content: All that it names; what is missing is an error.
        package: Whose ``templates`` folder has it.

    Returns:
        HTML, in which every text of `content` is escaped.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("foveate.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "duration": duration,
        "size": size,
        "change": change,
        "words": words,
        "svg": Markup,
    }
    return environment.get_template(template).render(content)


def is_known(value: Any) -> TypeGuard[float]:
    """Tell a number from None, NaN and infinity."""
    return value is not None and math.isfinite(value)


def number(value: Any) -> str:
    """Write a count in full and a measure to three decimals; small ones keep two digits."""
    if not is_known(value):
        return "n/a"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def percent(share: float) -> str:
    """Write a share as percent."""
    return f"{share * 100:.1f}\u00a0%"


def change(share: float) -> str:
    """Write by how much more or less something is."""
    whole = round(share * 100)
    sign = "+" if whole > 0 else "\u2212" if whole else ""
    return f"{sign}{abs(whole)}\u00a0%"


def words(name: str) -> str:
    """Write the name of a score as words."""
    return " ".join(_SPELLINGS.get(word, word) for word in name.split("_"))


def size(num_bytes: float) -> str:
    """Write a size in the unit that a plan would take."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1024 else f"{mebibytes:,.0f} MiB"


def duration(seconds: float) -> str:
    """Write seconds as a person would say them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
