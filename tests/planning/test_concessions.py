"""What a plan gives up where the usual does not fit: no more than it must, nothing stated."""

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
"""What a sample takes beside `BASE`: in any case, and to train all layers on 224x224 pixels."""
USUAL_SIDE = 224


def measured(config: RunConfig) -> Measurement:
    height, width = config.data.image_size or (USUAL_SIDE, USUAL_SIDE)
    unfrozen = config.recipe.unfreeze or 1.0
    each = FIXED + round(PIXELS * unfrozen * height * width / USUAL_SIDE**2)
    tries = [
        replace(one, peak_bytes=BASE + one.batch_size * each, unfreeze=unfrozen)
        for one in USUAL.tries
    ]
    return replace(USUAL, tries=tries, image_size=(height, width))


@pytest.fixture
def plan(digit_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Plan on a machine of which this is known; gives plan or error, and what was tried."""

    def planned(
        ram: int | str, **sections: Any
    ) -> tuple[RunConfig, Plan | BudgetError, list[Any]]:
        config = RunConfig.model_validate({**sections, "budget": {"ram": ram}})
        tried = []

        def measure(manifest: Manifest, config: RunConfig, *_: Any) -> Measurement:
            tried.append((config.data.image_size, config.recipe.unfreeze))
            return measured(config)

        monkeypatch.setattr("foveate.planning.concessions.measure", measure)
        try:
            return config, make_plan(digit_folders, config)[1], tried
        except BudgetError as error:
            return config, error, tried

    return planned


def line(plan: Plan, name: str) -> Any:
    return next(line for line in plan.ledger if line.name == name)


def test_the_usual_is_kept_where_it_fits(plan: Callable[..., Any]) -> None:
    _, found, tried = plan(1800 * MIB)
    assert (found.image_size, found.unfreeze) == ((224, 224), 1.0)
    assert tried == [(None, None)]
    for name in ("image size", "fine_tune, unfrozen"):
        assert line(found, name).source == "derived"
        assert "does not fit" not in line(found, name).reason


@pytest.mark.parametrize(
    ("ram", "recipe", "side", "unfrozen"),
    [
        (1500, {}, 224, 0.6),
        (1300, {}, 160, 0.6),
        (1200, {}, 128, 0.6),
        (1500, {"unfreeze": 1.0}, 160, 1.0),
        (1300, {"unfreeze": 1.0}, 128, 1.0),
    ],
)
def test_no_more_is_given_up_than_must_be(
    plan: Callable[..., Any], ram: int, recipe: dict[str, float], side: int, unfrozen: float
) -> None:
    config, found, _ = plan(ram * MIB, recipe=recipe)
    assert (found.image_size, found.unfreeze) == ((side, side), unfrozen)
    assert found.peak_bytes <= ram * MIB
    size, layers = line(found, "image size"), line(found, "fine_tune, unfrozen")
    assert (size.source, size.value) == ("derived", f"{side}x{side}")
    assert ("224x224 does not fit" in size.reason) == (side < USUAL_SIDE)
    assert layers.source == ("pinned" if recipe else "derived")
    assert layers.value.startswith(f"{unfrozen:.0%} ")
    assert ("does not fit" in layers.reason) == (unfrozen < 1)
    applied = found.apply(config)
    assert (applied.data.image_size, applied.recipe.unfreeze) == ((side, side), unfrozen)


def test_what_is_stated_is_kept_or_refused(plan: Callable[..., Any]) -> None:
    size, share = {"image_size": 224}, {"unfreeze": 1.0}
    _, found, _ = plan(1500 * MIB, data=size)
    assert (found.image_size, found.unfreeze) == ((224, 224), 0.6)
    _, found, _ = plan(1400 * MIB, data=size)
    assert isinstance(found, BudgetError)
    assert "224x224, 60% of the backbone's layers trained" in str(found)
    _, found, tried = plan(1500 * MIB, data=size, recipe=share)
    assert isinstance(found, BudgetError)
    assert "layers trained" not in str(found)
    assert tried == [((224, 224), 1.0)]


def test_without_fine_tuning_no_layers_are_left_out(
    plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "USUAL", replace(USUAL, stages=[("frozen", 10)]))
    _, found, tried = plan(1500 * MIB)
    assert (found.image_size, found.unfreeze) == ((160, 160), 1.0)
    assert [share for _, share in tried] == [None, None]


def test_none_fits(plan: Callable[..., Any]) -> None:
    _, found, _ = plan(1100 * MIB)
    assert isinstance(found, BudgetError)
    assert "images of 128x128" in str(found)
    named = str(found).split("at least ")[1].split(" for")[0]
    assert plan(named)[1].image_size == (128, 128)


def test_fewer_layers_leave_room_for_larger_images(
    plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit with all layers trained may fit with fewer."""
    monkeypatch.setitem(globals(), "PIXELS", 4000 * MIB)
    _, found, _ = plan(2600 * MIB)  # of 160 pixels 2124 MiB with 60 % of the layers, else 2941
    assert (found.image_size, found.unfreeze) == ((160, 160), 0.6)


def test_the_smallest_budget_of_all_is_named(plan: Callable[..., Any]) -> None:
    """Where far too little is stated, one more trial tells what would do with all given up."""
    hopeless, tried = plan(300 * MIB)[1:]
    assert isinstance(hopeless, BudgetError)
    assert tried == [(None, None), ((128, 128), 0.6)]
    named = str(hopeless).split("at least ")[1].split(" for")[0]
    found = plan(named)[1]  # in which a larger queue has room, so perhaps larger images, too
    assert found.unfreeze == 0.6
    assert found.image_size in ((128, 128), (160, 160))


def test_smaller_images_have_as_many_sizes_as_are_stated(plan: Callable[..., Any]) -> None:
    """To 224 pixels there are four that are multiples of 32, to 160 and 128 but three."""
    three, four = (plan(1100 * MIB, recipe={"image_sizes": count})[2] for count in (3, 4))
    assert [size for size, _ in three] == [None, None, (160, 160), (128, 128)]
    assert [size for size, _ in four] == [None, None]
