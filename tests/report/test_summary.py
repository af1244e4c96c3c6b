"""Numbers that the report derives from the files of a run."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foveate.report.summary import (
    best_epoch,
    class_counts,
    confused_pairs,
    describe_metadata,
    group_counts,
    metric_names,
    planned_and_real,
    series,
    split_counts,
    wilson_interval,
)


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_agrees_with_the_literature(
    right: int, samples: int, low: float, high: float
) -> None:
    bounds = wilson_interval(right / samples, samples)
    assert np.round(bounds, 4).tolist() == [low, high]


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_are_as_far_as_their_own_deviation_allows(pair: tuple[int, int]) -> None:
    right, samples = pair
    share = right / samples
    for bound in map(float, wilson_interval(share, samples)):
        assert 0.0 <= bound <= 1.0
        # The definition: |share - bound| is z standard deviations, taken at the bound itself.
        deviation = math.sqrt(bound * (1 - bound) / samples)
        assert abs(share - bound) == pytest.approx(1.959964 * deviation, abs=1e-6)


@given(
    hnp.arrays(np.int64, st.integers(1, 6).map(lambda k: (k, k)), elements=st.integers(0, 9)),
    st.integers(1, 40),
)
def test_confused_pairs_are_the_largest_mistakes(counts: np.ndarray, most: int) -> None:
    names = [f"class {index}" for index in range(len(counts))]
    pairs = confused_pairs(counts, names, most)
    mistakes = counts[~np.eye(len(counts), dtype=bool)]
    expected = sorted(mistakes[mistakes > 0].tolist(), reverse=True)[:most]
    assert [pair.count for pair in pairs] == expected
    for pair in pairs:
        true, predicted = names.index(pair.true), names.index(pair.predicted)
        assert true != predicted
        assert counts[true, predicted] == pair.count
        assert pair.share == pytest.approx(pair.count / counts[true].sum())


def test_best_epoch_falls_for_losses_and_rises_for_all_else() -> None:
    history: list[dict[str, float | None]] = [
        {"loss": 3.0, "val_loss": 1.0, "val_accuracy": 0.5},
        {"loss": 2.0, "val_loss": None, "val_accuracy": 0.9},
        {"loss": 1.0, "val_loss": 2.0, "val_accuracy": 0.7},
    ]
    assert best_epoch(history, "val_loss") == (0, "val_loss")
    assert best_epoch(history, "val_accuracy") == (1, "val_accuracy")
    assert best_epoch([{"loss": 3.0}, {"loss": 2.0}], "val_loss") == (1, "loss")
    assert best_epoch(history, "val_mean_iou") is None
    assert best_epoch([], "val_loss") is None
    apart = [{"loss": 0.1, "compares": False}, {"loss": 0.4}, {"loss": 0.3}]
    assert best_epoch(apart, "val_loss") == (2, "loss")
    assert best_epoch(apart[:1], "val_loss") is None


def test_metrics_are_named_once_with_the_loss_first() -> None:
    history = [{"stage": "frozen", "epoch": 1, "accuracy": 0.5, "loss": 1.0, "val_accuracy": 0.4}]
    assert metric_names([*history, {"compares": False}]) == ["loss", "accuracy"]
    assert np.isnan(series(history, "val_loss")).tolist() == [True]


def test_rows_are_counted_by_split_class_and_group() -> None:
    table = pl.DataFrame(
        {
            "label": ["b", "a", "b", "a"],
            "split": ["train", "train", "test", "test"],
            "group": ["one", "two", "one", None],
        }
    )
    assert split_counts(table) == {"train": 2, "test": 2}
    assert class_counts(table, ["train", "test"]) == [
        {"class": "a", "counts": [1, 1]},
        {"class": "b", "counts": [1, 1]},
    ]
    assert group_counts(table) == {"groups": 2, "torn": 1}
    assert group_counts(table.drop("group")) is None
    assert class_counts(table.drop("label"), ["train"]) == []


def test_metadata_is_described_by_its_kind() -> None:
    table = pl.DataFrame(
        {
            "image": ["x", "y", "z"],
            "metadata.age": [20.0, None, 80.5],
            "metadata.sex": ["f", "m", "f"],
            "metadata.empty": pl.Series([None, None, None], dtype=pl.Float64),
        }
    )
    assert describe_metadata(table) == [
        {"name": "age", "kind": "number", "values": "20 to 80.5", "missing": 1},
        {"name": "sex", "kind": "category", "values": "2 different", "missing": 0},
        {"name": "empty", "kind": "number", "values": "none", "missing": 3},
    ]


class TestPlannedAndReal:
    PLAN: ClassVar = {
        "peak_bytes": 100,
        "epoch_seconds": {"frozen": 4.0, "fine_tune": 9.0},
        "total_seconds": 30.0,
    }

    def test_the_median_epoch_of_each_stage_counts(self) -> None:
        history = [{"stage": "frozen", "seconds": seconds} for seconds in (9.0, 5.0, 5.0)]
        status = {"state": "finished", "peak_memory_bytes": 90, "seconds": 24.0}
        memory, frozen, fine_tune, whole = planned_and_real(self.PLAN, status, history)
        assert (memory.planned, memory.real, memory.is_memory) == (100, 90, True)
        assert memory.excess == pytest.approx(-0.1)
        assert (frozen.real, frozen.excess) == (5.0, 0.25)
        assert (fine_tune.real, fine_tune.excess) == (None, None)
        assert whole.excess == pytest.approx(-0.2)
        planning = {**status, "seconds": 54.0, "planning_seconds": 30.0}
        assert planned_and_real(self.PLAN, planning, history)[-1] == whole

    def test_what_is_not_over_is_not_compared(self) -> None:
        status = {"state": "interrupted", "seconds": 3.0}
        assert planned_and_real(self.PLAN, status, [])[-1].real is None
        whole = planned_and_real({**self.PLAN, "total_seconds": None}, status, [])
        assert [line.what for line in whole][-1] == "an epoch of fine_tune"

    def test_a_time_that_the_limit_left_no_room_for_is_not_compared(self) -> None:
        status = {"state": "finished", "seconds": 24.0, "planning_seconds": 5.0}

        def last(limit: float) -> str:
            return planned_and_real(self.PLAN, status, [], limit)[-1].what

        assert last(35.0) == "time, in all"
        assert last(34.0) == "an epoch of fine_tune"
