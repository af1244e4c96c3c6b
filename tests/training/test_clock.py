"""The arithmetic of a stated time, with a clock that stands where it is put."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.errors import BudgetError
from foveate.training.callbacks import TimeKeeper
from foveate.training.clock import Clock, Pace, RunTime, StageTime

END = 9.0


class Watch:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def run_time(watch: Watch, budget: float, judged: int = 0, is_resumed: bool = False) -> RunTime:
    return RunTime(budget, Clock(watch), Pace(10, 100), judged, END, is_resumed)


def test_a_clock_counts_what_was_spent_before() -> None:
    watch = Watch()
    clock = Clock(watch)
    watch.seconds += 5
    assert clock.spent == 5
    clock.add(30)
    assert clock.spent == 35


def test_a_validation_is_expected_from_training_then_from_the_one_before() -> None:
    pace = Pace(batch_size=10, num_validated=100)
    for seconds in (7.0, 2.0, 2.0):
        pace.add_batch(seconds)
    assert (pace.batch, pace.compiling) == (2.0, 5.0)
    estimated = pace.epoch_end
    assert estimated >= 5.0 + 100 * 0.2  # compiles, then as slow as training
    pace.add_epoch_end(9.0)
    assert 9.0 <= pace.epoch_end < estimated
    pace.add_epoch_end(4.0)
    assert 4.0 <= pace.epoch_end < 9.0
    assert pace.forward == pytest.approx(0.04)


def test_a_stage_compiles_its_validation_anew() -> None:
    pace = Pace(batch_size=10, num_validated=100)
    for seconds in (7.0, 2.0):
        pace.add_batch(seconds)
    for seconds in (9.0, 4.0):
        pace.add_epoch_end(seconds)
    pace.start_stage()
    assert pace.epoch_end >= 9.0
    assert pace.forward == pytest.approx(0.04)
    pace.add_batch(20.0)
    assert pace.compiling == 5.0  # judging compiles a forward pass, the least of all stages


def test_judging_is_paid_from_the_budget() -> None:
    watch = Watch()
    few, many = run_time(watch, 100, judged=10), run_time(watch, 100, judged=100)
    for run in (few, many):
        run.pace.add_batch(3.0)
        run.pace.add_batch(1.0)
    assert few.training_end - many.training_end >= 90 * 0.1
    assert few.training_end < 100 - 2.0  # what compiling takes


def test_progress_begins_when_the_first_batch_has_compiled() -> None:
    watch = Watch()
    stage = StageTime(run_time(watch, 100), 1.0, 0.0, cycle=1)
    watch.seconds += 40
    assert stage.progress() == 0.0
    stage.begin()
    assert stage.progress() == 0.0
    watch.seconds += stage.left / 2
    assert stage.progress() == pytest.approx(0.5)
    watch.seconds += stage.left
    assert stage.progress() == 1.0
    assert not stage.has_room_for_an_epoch(10) or stage.run.pace.batch == 0.0


def test_a_stage_leaves_the_rest_to_those_after() -> None:
    watch = Watch()
    run = run_time(watch, 100)
    frozen = StageTime(run, 0.3, 0.7, cycle=1)
    frozen.begin()
    assert frozen.left == pytest.approx(0.3 * run.training_end)
    watch.seconds += 2  # it ends early
    tuned = StageTime(run, 0.7, 0.0, cycle=1)
    tuned.begin()
    assert tuned.end == run.training_end


def test_a_resumed_stage_goes_on_from_its_share() -> None:
    watch = Watch()
    run = run_time(watch, 100)
    stage = StageTime(run, 0.3, 0.7, cycle=1)
    stage.resume_at(0.5)
    watch.seconds += 20
    stage.begin()
    assert stage.progress() == 0.5
    # Half of the stage is left: 0.15 parts, against 0.7 of the stage after it.
    assert stage.left == pytest.approx(0.15 / 0.85 * (run.training_end - 20))
    watch.seconds += stage.left / 2
    assert stage.progress() == pytest.approx(0.75)


@given(
    st.lists(st.tuples(st.sampled_from("bv"), st.floats(0.0, 30.0)), max_size=40),
    st.floats(20.0, 500.0),
    st.floats(0.0, 1.0),
)
def test_progress_never_falls_whatever_things_take(
    events: list[tuple[str, float]], budget: float, before: float
) -> None:
    watch = Watch()
    run = run_time(watch, budget, judged=50)
    stage = StageTime(run, 0.3, 0.7, cycle=2)
    stage.resume_at(before)
    last = before
    for number, (kind, seconds) in enumerate(events):
        watch.seconds += seconds
        if kind == "b":
            run.pace.add_batch(seconds)
        else:
            run.pace.add_epoch_end(seconds)
        if number == 0:
            stage.begin()
        now = stage.progress(ahead=run.pace.batch / 2)
        assert last <= now <= 1.0
        last = now
    if events and stage.left <= 0:
        assert stage.progress() == pytest.approx(1.0)


def test_only_whole_steps_count() -> None:
    watch = Watch()
    run = run_time(watch, 50)
    stage = StageTime(run, 1.0, 0.0, cycle=4)
    for _ in range(3):
        run.pace.add_batch(1.0)
    stage.begin()
    watch.seconds += stage.left - 4.5
    assert stage.has_room_for(1)
    assert not stage.has_room_for(2)
    assert not stage.has_room_for_an_epoch(40)
    assert stage.has_room_for_an_epoch(4)  # the whole epoch is one step


def test_too_little_time_names_what_would_do() -> None:
    watch = Watch()
    run = run_time(watch, 20)
    watch.seconds += 15
    with pytest.raises(BudgetError, match=r'budget\.time.*20 s.*15 s have passed.*"45s"') as error:
        run.require_enough()
    assert "smaller backbone" in str(error.value)
    enough = run_time(watch, 45)
    watch.seconds += 15
    enough.require_enough()


def test_a_planned_validation_counts_until_there_is_one() -> None:
    pace = Pace(batch_size=1, num_validated=100, planned=0.05)
    assert pace.forward == 0.05
    pace.add_batch(9.0)
    pace.add_batch(2.0)
    assert pace.forward == 0.05  # training takes 40 times as long
    pace.add_epoch_end(9.0)
    pace.add_epoch_end(8.0)
    assert pace.forward == pytest.approx(0.08)


@pytest.mark.parametrize("planned", [None, 0.1])
def test_a_run_whose_validation_is_known_to_last_is_refused_at_once(
    planned: float | None,
) -> None:
    run = RunTime(60.0, Clock(Watch()), Pace(1, 200, planned), 400, END)
    if planned is None:
        run.require_enough()
    else:  # 60 s are judged
        with pytest.raises(BudgetError, match=r"budget\.time"):
            run.require_enough()


def test_a_run_that_goes_on_is_not_refused() -> None:
    watch = Watch()
    run = run_time(watch, 20, is_resumed=True)
    watch.seconds += 30
    run.require_enough()


@pytest.mark.parametrize("seconds", [(1.0, 1.0, 60.0), (60.0,)])
def test_what_has_learned_for_more_than_a_step_is_kept_however_late(
    seconds: tuple[float, ...],
) -> None:
    """A last step that takes longer than any before costs its seconds, not the whole run."""
    watch = Watch()
    stage = StageTime(run_time(watch, 40), 1.0, 0.0, cycle=1)
    loader = MagicMock(first_batch=0)
    loader.__len__.return_value = 100
    keeper = TimeKeeper(stage, loader, None, is_first=True)
    keeper.set_model(SimpleNamespace(stop_training=False))
    keeper.on_epoch_begin(0)
    for batch, taken in enumerate(seconds[:-1]):
        watch.seconds += taken
        keeper.on_train_batch_end(batch)
        assert not keeper.ended
    watch.seconds += seconds[-1]
    if len(seconds) == 1:
        with pytest.raises(BudgetError, match=r"budget\.time"):
            keeper.on_train_batch_end(0)
        return
    keeper.on_train_batch_end(len(seconds) - 1)
    assert keeper.ended == "its time was up"
    assert keeper.seen == 0.03
