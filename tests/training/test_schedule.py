import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.config.recipe import ScheduleConfig
from foveate.training.schedule import rate_factor

NAMES = ["constant", "cosine", "one_cycle", "cyclical", "step", "plateau"]


def schedule(name: str, **values: float) -> ScheduleConfig:
    return ScheduleConfig.model_validate({"name": name, **values})


@given(
    st.sampled_from(NAMES),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.integers(1, 6),
    st.floats(-0.5, 1.5),
)
def test_factors_stay_within_bounds(
    name: str, warmup: float, floor: float, cycles: int, progress: float
) -> None:
    config = schedule(name, warmup=warmup, floor=floor, cycles=cycles)
    factor = rate_factor(progress, config)
    assert -1e-12 <= factor <= 1 + 1e-12
    if progress > warmup:
        assert factor >= floor - 1e-12


@given(st.sampled_from(NAMES), st.floats(0.01, 0.9))
def test_warmup_rises_linearly_from_zero(name: str, warmup: float) -> None:
    config = schedule(name, warmup=warmup)
    assert rate_factor(0.0, config) == 0.0
    begins = rate_factor(warmup, config)
    assert rate_factor(warmup / 2, config) == pytest.approx(begins / 2)


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle", "cyclical", "plateau"])
def test_no_jumps(name: str) -> None:
    config = schedule(name)
    factors = [rate_factor(step / 1000, config) for step in range(1001)]
    assert max(abs(a - b) for a, b in itertools.pairwise(factors)) < 0.03


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "cyclical"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_smooth_schedules_end_at_the_floor(name: str, floor: float) -> None:
    assert rate_factor(1.0, schedule(name, floor=floor)) == pytest.approx(floor)


def test_shapes() -> None:
    assert rate_factor(0.5, schedule("cosine", warmup=0)) == pytest.approx(0.5)
    assert rate_factor(0.3, schedule("one_cycle", warmup=0)) == pytest.approx(1.0)
    assert rate_factor(0.0, schedule("one_cycle", warmup=0)) == pytest.approx(1 / 25)
    step = schedule("step", warmup=0, cycles=3, factor=0.5)
    assert [rate_factor(p, step) for p in (0.1, 0.3, 0.6, 0.9, 1.0)] == [
        1,
        0.5,
        0.25,
        0.125,
        0.125,
    ]
    # Two triangles and a half: peak, floor, peak, floor.
    cyclical = schedule("cyclical", warmup=0, cycles=2)
    assert [rate_factor(p / 3, cyclical) for p in range(4)] == pytest.approx([1, 0, 1, 0])
    assert rate_factor(0.7, schedule("constant", warmup=0.1)) == 1.0
