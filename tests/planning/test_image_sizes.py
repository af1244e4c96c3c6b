"""Image sizes of a stage, the epochs of each, and when they pay."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.config.settings import RunConfig
from foveate.planning.fingerprint import Fingerprint
from foveate.planning.measurement import Measurement, Try
from foveate.planning.plan import Plan
from foveate.planning.reckon import epochs_at_full_size, peak_bytes, sizes_that_pay
from foveate.planning.resizing import epochs_of_sizes, image_sizes, side_shares
from foveate.planning.settle import settle

GIB = 1024**3
FOUND = Fingerprint(1000, 100, (300, 400), (600, 800), {"jpg": 1.0}, 50_000.0)

sides = st.integers(8, 700)
numbers = st.integers(1, 8)


@given(st.tuples(sides, sides), numbers)
def test_sizes_rise_to_the_full_one(full: tuple[int, int], number: int) -> None:
    sizes = image_sizes(full, number)
    assert 1 <= len(sizes) <= number
    assert sizes[-1] == full
    for (height, width), (higher, wider) in itertools.pairwise(sizes):
        assert height <= higher
        assert width <= wider
        assert height % 32 == 0 or height == full[0]
        assert width % 32 == 0 or width == full[1]


def test_they_begin_at_half_and_rise_evenly() -> None:
    assert image_sizes((256, 512), 3) == [(128, 256), (192, 384), (256, 512)]
    assert image_sizes((28, 28), 4) == [(28, 28)]  # nothing smaller is a multiple of 32
    assert side_shares(3) == [0.5, 0.75, 1.0]


@given(numbers, st.integers(0, 100))
def test_epochs_are_divided_equally(number: int, more: int) -> None:
    epochs = epochs_of_sizes(number + more, number)
    assert sum(epochs) == number + more
    assert min(epochs) >= 1
    assert max(epochs) - min(epochs) <= 1
    assert epochs == sorted(epochs)


def measured(slow: float = 0.0, waits: float = 0.0, compiling: float = 4.0, most: int = 4) -> Any:
    """Two tries of batches that take 0.1 s a sample, and as much more as `slow` says."""
    tries = [
        Try(
            size,
            GIB,
            GIB,
            None,
            {"fine_tune": [slow + 0.1 * size] * 5},
            {"fine_tune": waits},
            0.02,
            size_seconds=compiling,
        )
        for size in (8, 32)
    ]
    rows = {"train": 800, "validation": 0, "test": 100}
    return Measurement(
        "tensorflow", ["cpu"], (256, 256), [("fine_tune", 10)], GIB // 2, 10.0, rows, 100, 800,
        13 * 2**20, tries, 2**62, image_sizes=most,
    )  # fmt: skip


def settled(found: Measurement, **recipe: Any) -> Plan:
    return settle(RunConfig.model_validate({"recipe": recipe}), FOUND, found, 4 * GIB)


def line(plan: Plan) -> Any:
    return next(line for line in plan.ledger if line.name == "fine_tune, image sizes")


def test_an_epoch_costs_by_its_pixels() -> None:
    # Two sizes: 5 epochs at a quarter of the pixels, 5 at all of them.
    assert epochs_at_full_size(measured(), 32, 10, 2) == pytest.approx(5 * 0.25 + 5)
    alone = replace(measured(), tries=measured().tries[1:])
    assert epochs_at_full_size(alone, 32, 10, 2) == pytest.approx(5 * 0.25 + 5)
    # 3.2 s of 6.4 s are there for any batch: a quarter of the samples takes 5/8 of the time.
    assert epochs_at_full_size(measured(slow=3.2), 32, 10, 2) == pytest.approx(5 * 0.625 + 5)
    assert epochs_at_full_size(measured(waits=0.1), 32, 10, 2) == pytest.approx(
        5 * (0.1 + 0.9 * 0.25) + 5
    )


class TestPlan:
    def test_what_would_pay_is_told(self) -> None:
        """It is not taken: how good a model gets is not measured by a plan."""
        plan = settled(measured())
        assert plan.image_sizes == 1
        assert line(plan).value == "256x256"
        assert line(plan).source == "derived"
        number, share = sizes_that_pay(measured(), 32, 4 * GIB, None)
        assert number > 1
        assert f"image_sizes = {number} would take about {share:.0%}" in line(plan).reason

    @pytest.mark.parametrize(
        "found",
        [measured(compiling=500.0), measured(waits=0.9), measured(slow=100.0), measured(most=1)],
    )
    def test_what_gains_little_is_not(self, found: Measurement) -> None:
        assert "hardly be faster" in line(settled(found)).reason
        assert sizes_that_pay(found, 32, 4 * GIB, None) == (1, 1.0)

    def test_no_more_than_epochs_or_memory_allow(self) -> None:
        short = replace(measured(compiling=0.1), stages=[("fine_tune", 1)])
        assert sizes_that_pay(short, 32, 4 * GIB, None)[0] == 1
        assert sizes_that_pay(measured(), 32, peak_bytes(measured(), 32), None)[0] == 1

    def test_a_stated_number_is_kept_and_paid_for(self) -> None:
        found, number = measured(), 3
        plan, without = settled(found, image_sizes=number), settled(found)
        assert plan.image_sizes == number
        assert line(plan).source == "pinned"
        assert line(plan).value.startswith("128x128")
        assert plan.apply(RunConfig()).recipe.image_sizes == number
        assert plan.peak_bytes > without.peak_bytes
        full = epochs_at_full_size(found, 32, 10, number)
        saved = (10 - full) * plan.epoch_seconds["fine_tune"] - 4.0 * (number - 1)
        assert plan.total_seconds is not None
        assert without.total_seconds is not None
        assert plan.total_seconds == pytest.approx(without.total_seconds - saved)

    @pytest.mark.parametrize(("minutes", "pays"), [(1, False), (60, True)])
    def test_a_stated_time_says_how_many_epochs(self, minutes: int, pays: bool) -> None:
        found = replace(measured(compiling=20.0), stages=[("fine_tune", None)])
        assert (sizes_that_pay(found, 32, 4 * GIB, 60.0 * minutes)[0] > 1) == pays
