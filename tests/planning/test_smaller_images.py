"""The image size of a plan that may choose it: the usual one, or the largest that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_plan import BASE, MIB, USUAL

from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.errors import BudgetError
from foveate.planning.measurement import Measurement
from foveate.planning.plan import Plan
from foveate.planning.planner import make_plan

FIXED, PIXELS = 100 * MIB, 700 * MIB
"""What a sample takes beside `BASE`: in any case, and for the pixels of 224x224."""


def on_images_of(height: int, width: int) -> Measurement:
    each = FIXED + PIXELS * height * width // 224**2
    tries = [replace(one, peak_bytes=BASE + one.batch_size * each) for one in USUAL.tries]
    return replace(USUAL, tries=tries, image_size=(height, width))


@pytest.fixture
def plan(digit_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Plan on a machine of which this is known; says which image sizes were tried, too."""

    def planned(ram: int | str, **data: Any) -> tuple[RunConfig, Plan | BudgetError, list[Any]]:
        config = RunConfig.model_validate({"data": data, "budget": {"ram": ram}})
        tried = []

        def measure(manifest: Manifest, config: RunConfig, *_: Any) -> Measurement:
            tried.append(config.data.image_size)
            return on_images_of(*(config.data.image_size or (224, 224)))

        monkeypatch.setattr("foveate.planning.planner.measure", measure)
        try:
            return config, make_plan(digit_folders, config)[1], tried
        except BudgetError as error:
            return config, error, tried

    return planned


def line(plan: Plan) -> Any:
    return next(line for line in plan.ledger if line.name == "image size")


def test_the_usual_size_is_kept_where_it_fits(plan: Callable[..., Any]) -> None:
    _, found, tried = plan(1800 * MIB)
    assert (found.image_size, tried) == ((224, 224), [None])
    assert "does not fit" not in line(found).reason


@pytest.mark.parametrize(("ram", "side"), [(1500, 160), (1300, 128)])
def test_the_largest_that_fits_is_taken(plan: Callable[..., Any], ram: int, side: int) -> None:
    config, found, _ = plan(ram * MIB)
    assert found.image_size == (side, side)
    assert found.peak_bytes <= ram * MIB
    assert (line(found).source, line(found).value) == ("derived", f"{side}x{side}")
    assert "224x224 does not fit" in line(found).reason
    assert found.apply(config).data.image_size == (side, side)


def test_a_stated_size_is_kept_or_refused(plan: Callable[..., Any]) -> None:
    _, found, tried = plan(1500 * MIB, image_size=224)
    assert isinstance(found, BudgetError)
    assert tried == [(224, 224)]


def test_none_fits(plan: Callable[..., Any]) -> None:
    _, found, _ = plan(1100 * MIB)
    assert isinstance(found, BudgetError)
    assert "images of 128x128" in str(found)
    named = str(found).split("at least ")[1].split(" for")[0]
    assert plan(named)[1].image_size == (128, 128)
    hopeless, tried = plan(300 * MIB)[1:]
    assert isinstance(hopeless, BudgetError)
    assert tried == [None]
