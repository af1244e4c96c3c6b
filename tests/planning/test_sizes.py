"""The batch sizes that are tried: few, within the limit as far as can be told, and enough."""

from hypothesis import given
from hypothesis import strategies as st

from foveate.config.settings import RunConfig
from foveate.planning.sizes import KEPT_FREE, batch_sizes, next_size

BASE = 800
SIZES = [1, 2, 4, 8, 16, 32]


def tried(
    each: float, once: float, limit: int, sizes: list[int] = SIZES, compiling: float = 0.0
) -> dict[int, int]:
    """Ask and answer until nothing is left to try; memory grows by lines, from a peak on."""
    peaks: dict[int, int] = {}
    steady: dict[int, int] = {}
    while (size := next_size(sizes, peaks, steady, BASE, limit)) is not None:
        assert size in sizes
        assert size not in peaks
        steady[size] = round(BASE + once + each * size)
        peaks[size] = max(steady[size], round(BASE + compiling))
    return peaks


@given(st.floats(1, 100), st.floats(3, 20), st.integers(900, 9000))
def test_no_try_after_the_first_exceeds_the_limit(each: float, share: float, limit: int) -> None:
    peaks = tried(each, share * each, limit)
    assert 1 <= len(peaks) <= 3
    first, *others = peaks
    assert first == 1
    assert others == sorted(others)
    assert all(peaks[size] <= limit for size in others)


@given(st.floats(1, 100), st.floats(3, 20), st.integers(900, 9000), st.floats(0, 1000))
def test_nor_where_compiling_hides_what_a_sample_takes(
    each: float, share: float, limit: int, compiling: float
) -> None:
    first, *others = (peaks := tried(each, share * each, limit, compiling=compiling))
    assert first == 1
    assert all(peaks[size] <= limit for size in others)


def test_two_small_sizes_that_hardly_differ_promise_no_large_one() -> None:
    """A U-Net on MobileNetV3Small, in MiB: 32 samples took 1,655, above the limit of 1,426."""
    peaks, steady = {1: 950, 2: 953}, {1: 754, 2: 763}
    assert next_size(SIZES, peaks, steady, 278, 1426) == 16


@given(st.floats(1, 100), st.floats(3, 20), st.integers(900, 9000))
def test_the_largest_that_fits_is_known(each: float, share: float, limit: int) -> None:
    peaks = tried(each, share * each, limit)
    planned = limit * (1 - KEPT_FREE) - 10  # MiB are rounded
    fitting = [size for size in SIZES if round(BASE + share * each + each * size) <= planned]
    if len(peaks) > 1:  # the second size tells what a sample takes
        assert max(peaks) >= (fitting or [1])[-1]
    else:  # two samples would not surely have fitted
        assert peaks[1] + (peaks[1] - BASE) / 4 > limit


def test_a_stated_size_is_the_only_one() -> None:
    config = RunConfig.model_validate({"data": {"batch_size": 6}})
    assert batch_sizes(config) == [6]
    assert tried(10, 50, 5000, [6]) == {6: 910}
    assert tried(10, 50, 850, [6]) == {6: 910}


def test_what_makes_a_whole_step() -> None:
    assert batch_sizes(RunConfig()) == SIZES
    odd = RunConfig.model_validate({"recipe": {"effective_batch_size": 45}})
    assert batch_sizes(odd) == [1, 3, 5, 9, 15, 45]
