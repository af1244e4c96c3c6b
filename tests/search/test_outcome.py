"""What is read from a study."""

from __future__ import annotations

import math
import statistics
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import DEFAULT, OPTIMIZER, RATE, add, begin
from optuna.trial import TrialState

from foveate.config.search import RangeConfig
from foveate.config.settings import RunConfig
from foveate.errors import RunError
from foveate.search.outcome import read_study, value_text
from foveate.search.space import Space


def test_a_trial_is_told_whole() -> None:
    study = begin(notes=["One sentence."])
    add(
        study, 0.5, 0.75, curve={2: 0.6, 1: 0.25, 3: math.nan}, seconds=12.5, peak_bytes=2**30,
        batch_size=8, folder="trials/0000", scores={"accuracy": 0.5, "log_loss": 1.5},
    )  # fmt: skip
    record = read_study(study)
    assert (record.objective, record.maximize, record.strategy) == ("accuracy", True, "bayesian")
    assert (record.num_validation, record.notes) == (400, ("One sentence.",))
    (trial,) = record.trials
    assert (trial.number, trial.outcome, trial.reason) == (0, "complete", "")
    assert (trial.values, trial.score) == ((0.5, 0.75), 0.625)
    assert trial.spread == pytest.approx(math.sqrt(2 * 0.125**2))
    assert (dict(trial.curve), trial.last) == ({1: 0.25, 2: 0.6}, (2, 0.6))
    assert trial.settings == DEFAULT
    assert (trial.cost.seconds, trial.cost.peak_bytes, trial.cost.batch_size) == (12.5, 2**30, 8)
    assert (trial.folder, trial.scores["log_loss"]) == ("trials/0000", 1.5)


def test_a_default_outside_of_its_range_is_still_told() -> None:
    study = begin()
    add(study, 0.5, settings={RATE: 1.0, OPTIMIZER: "adam"})
    assert study.trials[0].params == {}
    assert read_study(study).trials[0].settings == {RATE: 1.0, OPTIMIZER: "adam"}


@pytest.mark.parametrize(
    ("state", "told", "expected"),
    [
        (TrialState.COMPLETE, {}, "complete"),
        (TrialState.PRUNED, {"outcome": "pruned"}, "pruned"),
        (TrialState.PRUNED, {}, "pruned"),
        (TrialState.PRUNED, {"outcome": "infeasible"}, "infeasible"),
        (TrialState.FAIL, {"outcome": "infeasible"}, "infeasible"),
        (TrialState.FAIL, {"outcome": "timed out"}, "timed out"),
        (TrialState.FAIL, {"outcome": "failed"}, "failed"),
        (TrialState.FAIL, {}, "failed"),
        # Killed after it had told all, before the study knew.
        (TrialState.FAIL, {"outcome": "complete", "values": [0.9]}, "failed"),
        (TrialState.RUNNING, {"outcome": "complete", "values": [0.9]}, "running"),
        (TrialState.WAITING, {}, "waiting"),
    ],
)
def test_outcomes(state: TrialState, told: dict[str, Any], expected: str) -> None:
    study = begin()
    values = (0.9,) if state == TrialState.COMPLETE else ()
    add(study, *values, state=state, **told)
    (trial,) = read_study(study).trials
    assert trial.outcome == expected
    assert trial.score == (0.9 if expected == "complete" else None)


def test_a_worker_that_died_is_named_as_the_reason() -> None:
    study = begin()
    add(study, state=TrialState.FAIL)
    assert read_study(study).trials[0].reason == "its worker died, and it was not queued again"


def test_a_trial_that_was_queued_again_counts_once() -> None:
    study = begin()
    add(study, state=TrialState.FAIL)
    add(study, 0.75)
    add(study, state=TrialState.FAIL, replaces=(0,))
    add(study, 0.5, replaces=(0, 2))
    record = read_study(study)
    assert [trial.again for trial in record.trials] == [2, None, 3, None]
    assert record.trials[0].outcome == record.trials[2].outcome == "queued again"
    assert record.trials[0].reason == "its worker died; queued again as 2"
    assert [trial.number for trial in record.counted] == [1, 3]
    assert record.baseline is record.trials[3]
    assert record.gain == 0.25


def test_settings_whose_condition_is_not_met_are_left_out() -> None:
    momentum = {"low": 0.5, "high": 0.99, "when": {OPTIMIZER: "sgd"}}
    study = begin(space={OPTIMIZER: {"choices": ["adamw", "sgd"]}, "momentum": momentum})
    add(study, 0.5, settings={OPTIMIZER: "adamw", "momentum": 0.9})
    add(study, 0.5, settings={OPTIMIZER: "sgd", "momentum": 0.9})
    first, second = read_study(study).trials
    assert first.settings == {OPTIMIZER: "adamw"}
    assert second.settings == {OPTIMIZER: "sgd", "momentum": 0.9}


def test_a_condition_may_name_several_values() -> None:
    optimizers = RangeConfig(choices=("adamw", "sgd", "rmsprop"))
    momentum = RangeConfig(low=0.5, high=0.99, when={OPTIMIZER: ("sgd", "rmsprop")})
    ranges = {OPTIMIZER: optimizers, "recipe.optimizer.momentum": momentum}
    study = begin(space=Space(RunConfig(), ranges).to_dict())
    for name in ("adamw", "sgd", "rmsprop"):
        add(study, 0.5, settings={OPTIMIZER: name, "recipe.optimizer.momentum": 0.9})
    kept = ["recipe.optimizer.momentum" in trial.settings for trial in read_study(study).trials]
    assert kept == [False, True, True]


def test_a_condition_on_what_is_not_varied_was_met() -> None:
    study = begin(space={"momentum": {"low": 0.5, "high": 0.99, "when": {OPTIMIZER: ["sgd"]}}})
    add(study, 0.5, settings={"momentum": 0.9})
    assert read_study(study).trials[0].settings == {"momentum": 0.9}


def test_another_programs_study_is_refused() -> None:
    with pytest.raises(RunError, match="must say its objective, but 'theirs' does not"):
        read_study(optuna.create_study(study_name="theirs"))


class TestBest:
    def test_less_may_be_better(self) -> None:
        study = begin("log_loss", maximize=False)
        for value in (0.5, 0.25, 0.75):
            add(study, value)
        record = read_study(study)
        assert record.best is record.trials[1]
        assert record.gain == 0.25

    def test_the_default_settings_win_a_tie(self) -> None:
        study = begin()
        add(study, state=TrialState.FAIL)
        add(study, 0.5)
        add(study, 0.5, replaces=(0,))
        record = read_study(study)
        assert record.best is record.baseline is record.trials[2]
        assert record.gain == 0

    def test_without_a_score_there_is_none(self) -> None:
        study = begin("log_loss", maximize=False)
        assert read_study(study).best is None
        assert read_study(study).baseline is None
        add(study, math.inf)
        add(study, state=TrialState.PRUNED, curve={1: 0.5}, outcome="pruned")
        record = read_study(study)
        assert (record.best, record.gain) == (None, None)
        assert [trial.standing for trial in record.trials] == [None, 0.5]

    @given(
        st.lists(
            st.tuples(st.sampled_from(["complete", "pruned", "failed", "died"]), st.floats(0, 1)),
            max_size=8,
        ),
        st.booleans(),
    )
    def test_no_trial_is_better_and_none_is_lost(
        self, trials: list[tuple[str, float]], maximize: bool
    ) -> None:
        study = begin(maximize=maximize)
        for outcome, value in trials:
            if outcome == "complete":
                add(study, value)
            elif outcome == "died":
                number = add(study, state=TrialState.FAIL)
                add(study, value, replaces=(number,))
            else:
                state = TrialState.PRUNED if outcome == "pruned" else TrialState.FAIL
                add(study, state=state, curve={1: value}, outcome=outcome)
        record = read_study(study)
        assert [trial.number for trial in record.trials] == list(range(len(study.trials)))
        assert len(record.counted) == len(trials)
        scores = [value for outcome, value in trials if outcome in ("complete", "died")]
        assert (record.best is None) == (not scores)
        if record.best is not None:
            assert record.best.score == (max if maximize else min)(scores)
            interval = record.interval(record.best)
            assert interval is not None
            assert interval.low <= record.best.score <= interval.high


class TestInterval:
    def bounds(self, *values: float, **about: Any) -> Any:
        study = begin(**about)
        add(study, *values)
        record = read_study(study)
        found = record.interval(record.trials[0])
        return found and (found.low, found.high, found.source)

    def test_repeats_give_students(self) -> None:
        # Mean 0.92, deviation 0.02, t(2) = 4.303: 0.92 ± 4.303 × 0.02 / √3.
        found = self.bounds(0.90, 0.92, 0.94)
        assert found == (
            pytest.approx(0.8703, abs=1e-4),
            pytest.approx(0.9697, abs=1e-4),
            "repeats",
        )

    def test_it_stays_where_scores_can_be(self) -> None:
        assert self.bounds(0.25, 0.75) == (0.0, 1.0, "repeats")
        found = self.bounds(0.5, 1.5, objective="log_loss", maximize=False)
        # t(1) = 12.706: 1 ± 12.706 × 0.7071 / √2.
        assert found == (0.0, pytest.approx(7.353, abs=1e-3), "repeats")

    def test_samples_give_wilsons(self) -> None:
        # 3 of 4, worked by hand: (0.75 + 0.4802 ± 0.6386) / 1.9604.
        found = self.bounds(0.75, num_validation=4)
        assert found == (pytest.approx(0.301, abs=1e-3), pytest.approx(0.954, abs=1e-3), "samples")

    def test_equal_repeats_say_nothing_of_chance(self) -> None:
        assert self.bounds(0.75, 0.75, num_validation=4) == self.bounds(0.75, num_validation=4)
        assert self.bounds(0.75, 0.75, objective="mean_iou") is None

    @pytest.mark.parametrize("objective", ["mean_iou", "pixel_accuracy", "macro_f1", "log_loss"])
    def test_one_training_of_any_other_score_has_none(self, objective: str) -> None:
        assert self.bounds(0.75, objective=objective) is None

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
    def test_the_mean_lies_within(self, values: list[float]) -> None:
        found = self.bounds(*values, objective="mean_iou")
        if found is not None:
            assert 0 <= found[0] <= statistics.fmean(values) <= found[1] <= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (3, "3"),
        (0.000123456, "0.0001235"),
        (2.0, "2"),
        ("adamw", "adamw"),
        ([224, 224], "224, 224"),
        (math.nan, "nan"),
    ],
)
def test_values_are_written_short(value: Any, text: str) -> None:
    assert value_text(value) == text
