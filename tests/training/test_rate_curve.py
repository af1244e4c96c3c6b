"""The rate that follows from a range test, on curves of known shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.training.rate_curve import RateCurve, has_diverged, noise, smooth

RATES = tuple(np.geomspace(1e-6, 10.0, 85).tolist())

middles = st.floats(-4.0, -1.5)
widths = st.floats(0.05, 0.5)
seeds = st.integers(0, 2**32 - 1)


def curve(losses: np.ndarray, rates: tuple[float, ...] = RATES) -> RateCurve:
    return RateCurve("scratch", 32, rates, tuple(losses.tolist()), "reached the end")


def falling(
    middle: float, width: float, start: float = 2.0, fall: float = 1.5, rises: bool = True
) -> np.ndarray:
    """Losses that fall around the rate 10 ** middle and rise two decades later."""
    place = np.log10(RATES)
    losses = start - fall / (1 + np.exp((middle - place) / width))
    risen: np.ndarray = losses + np.exp(np.minimum((place - middle - 2) / 0.1, 3)) * rises
    return risen


@given(middle=middles, width=widths, seed=seeds, scatter=st.floats(0, 0.15), rises=st.booleans())
def test_it_lies_in_the_decade_after_the_middle_of_the_fall(
    middle: float, width: float, seed: int, scatter: float, rises: bool
) -> None:
    """Smoothing looks back, so that it is never the rate of the middle itself, but a later one."""
    losses = falling(middle, width, rises=rises)
    losses += np.random.default_rng(seed).normal(0, scatter, len(RATES))
    found = curve(losses).suggestion
    assert found is not None
    assert middle - 0.3 < math.log10(found) < middle + 1.3


@given(middle=middles, width=widths, scale=st.floats(0.1, 100), offset=st.floats(0, 10))
def test_the_unit_of_the_loss_is_no_matter(
    middle: float, width: float, scale: float, offset: float
) -> None:
    losses = falling(middle, width)
    first, second = (curve(values).suggestion for values in (losses, scale * losses + offset))
    assert first is not None
    assert second == pytest.approx(first, rel=0.25)  # a step more or less, where they are equal


@given(middle=st.floats(-4.0, -2.5), width=widths)
def test_it_moves_with_the_fall(middle: float, width: float) -> None:
    one, two = (curve(falling(place, width)).suggestion for place in (middle, middle + 1))
    assert one is not None
    assert two is not None
    assert two / one == pytest.approx(10, rel=0.3)


@given(seed=seeds, start=st.floats(0.1, 10), scatter=st.floats(0, 0.3))
def test_nothing_follows_from_noise(seed: int, start: float, scatter: float) -> None:
    losses = start * (1 + np.random.default_rng(seed).normal(0, scatter, len(RATES)))
    assert curve(losses).suggestion is None


@given(seed=seeds, length=st.integers(1, 85))
def test_it_is_a_rate_that_was_tried(seed: int, length: int) -> None:
    """Whatever the losses: even where they begin high, or end at once."""
    losses = np.random.default_rng(seed).lognormal(0, 1, length)
    found = curve(losses, RATES[:length])
    assert found.suggestion is None or RATES[0] <= found.suggestion * 1.05 <= 1.1 * RATES[-1]
    assert 0 <= found.lowest < length


def test_fewer_rates_tell_the_same() -> None:
    """The smoothing reaches over the same ratio of rates."""
    losses = falling(-3, 0.3)
    all_of_them, half = curve(losses), curve(losses[::2], RATES[::2])
    assert all_of_them.suggestion is not None
    assert half.suggestion == pytest.approx(all_of_them.suggestion, rel=0.3)


@given(losses=st.lists(st.floats(0, 100), min_size=1, max_size=85))
def test_smoothing_stays_among_the_losses(losses: list[float]) -> None:
    smoothed = smooth(RATES[: len(losses)], losses)
    assert len(smoothed) == len(losses)
    assert smoothed[0] == pytest.approx(losses[0])
    for step, value in enumerate(smoothed, start=1):
        assert min(losses[:step]) - 1e-9 <= value <= max(losses[:step]) + 1e-9


def test_noise_is_told_from_a_trend() -> None:
    rng = np.random.default_rng(0)
    losses = np.linspace(5, 1, 2000) + rng.normal(0, 0.2, 2000)
    assert noise(losses.tolist()) == pytest.approx(0.2, rel=0.1)
    assert noise([1.0]) == 0.0


@given(seed=seeds, start=st.floats(0.1, 10), scatter=st.floats(0, 0.3))
def test_noise_is_no_divergence(seed: int, start: float, scatter: float) -> None:
    losses = start * (1 + np.random.default_rng(seed).normal(0, scatter, len(RATES)))
    assert not any(has_diverged(RATES[:end], losses[:end].tolist()) for end in range(1, 86))


def test_a_bounded_loss_diverges_too() -> None:
    """Dice's loss is never above 1, which may be no multiple of its best."""
    losses = [0.75] * 40 + [0.4] * 25 + [1.0] * 20
    ends = [end for end in range(1, 86) if has_diverged(RATES[:end], losses[:end])]
    assert ends
    assert ends[0] > 65
