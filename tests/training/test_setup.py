"""What a run keeps free for its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.training.setup import end_seconds

USUAL = 0.004  # seconds to build a network, for each of its variables


def test_a_machine_half_as_fast_needs_twice_as_long() -> None:
    slow, slower = (end_seconds(factor * USUAL * 1000, 1000) for factor in (1.5, 3.0))
    assert slower == pytest.approx(2 * slow)


def test_larger_networks_take_longer_to_save_and_load() -> None:
    assert end_seconds(USUAL * 1000, 1000) > end_seconds(USUAL * 200, 200)


@given(st.floats(0.0, 1e4), st.integers(1, 5000))
def test_neither_a_fast_machine_nor_a_download_spoils_it(build: float, variables: int) -> None:
    end = end_seconds(build, variables)
    assert 9.0 <= end <= max(9.0, 4 * end_seconds(USUAL * variables, variables))
