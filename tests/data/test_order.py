"""The order of remote shards: every row once, shard by shard, a few at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foveate.data.order import shuffled_in_windows
from foveate.data.samples import random_generator


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_every_row_once_in_windows_of_whole_shards(
    shards: list[int], window: int, seed: int
) -> None:
    numbers = np.array(shards, np.uint32)
    rows = shuffled_in_windows(numbers, random_generator(seed, 0, 0, 2), window)
    assert sorted(rows.tolist()) == list(range(len(shards)))
    np.testing.assert_array_equal(
        rows, shuffled_in_windows(numbers, random_generator(seed, 0, 0, 2), window)
    )
    done: set[int] = set()
    place = 0
    while place < len(rows):
        # The shards of a window are those met until all their rows have come.
        size = 0
        met: set[int] = set()
        while len(met) < min(window, len(set(shards) - done)) or size < int(
            np.isin(numbers, list(met)).sum()
        ):
            met.add(int(numbers[rows[place + size]]))
            size += 1
        assert len(met) <= window
        assert not met & done
        done |= met
        place += size


def test_windows_mix_and_epochs_differ() -> None:
    numbers = np.repeat(np.arange(40), 25)
    first, second = (
        shuffled_in_windows(numbers, random_generator(0, epoch, 0, 2), 4) for epoch in (0, 1)
    )
    assert first.tolist() != second.tolist()
    for start in range(0, 1000, 100):
        window = numbers[first[start : start + 100]]
        assert len(set(window.tolist())) == 4
        assert len(set(window[:25].tolist())) > 1
