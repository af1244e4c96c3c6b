"""What a study has found: Optuna's trials as plain records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import stdtrit

from foveate.errors import RunError
from foveate.report.summary import wilson_interval
from foveate.search.importance import Importance, importances

Outcome = Literal[
    "complete", "pruned", "infeasible", "timed out", "failed", "queued again", "running", "waiting"
]
_BY_STATE: dict[TrialState, Outcome] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_SHARES_OF_SAMPLES = ("accuracy",)
"""Scores that are a share of independent samples; the pixels of an image are not independent."""


@dataclass(frozen=True)
class Interval:
    """Where a score can be said to lie with 95 % confidence.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        source: What it allows for: ``repeats`` (chance in training) or ``samples`` (chance in
            what the validation split holds).
    """

    low: float
    high: float
    source: Literal["repeats", "samples"]


@dataclass(frozen=True)
class TrialCost:
    """What a trial took; None where it is not known.

    Attributes:
        seconds: From its start to its end, all repeats together.
        peak_bytes: Most memory.
        batch_size: Samples of a batch.
    """

    seconds: float | None = None
    peak_bytes: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: Its number in the study, from 0.
        outcome: What became of it.
        reason: Why it came to that; may be empty.
        settings: Config key to value, of all that the space says for this trial.
        values: The objective, one value a repeat.
        scores: All validation scores of the first repeat.
        curve: Epoch to objective, in order; only finite values.
        cost: What it took.
        folder: Of its run or runs, relative to the study's; None if it never began.
        again: Number of the trial that has taken its place after its worker died.
    """

    number: int
    outcome: Outcome
    reason: str
    settings: Mapping[str, Any]
    values: tuple[float, ...]
    scores: Mapping[str, float]
    curve: Mapping[int, float]
    cost: TrialCost
    folder: str | None = None
    again: int | None = None

    @property
    def score(self) -> float | None:
        """The mean over the repeats of a complete trial; None if there is no finite one."""
        if self.outcome != "complete" or not self.values:
            return None
        mean = statistics.fmean(self.values)
        return mean if math.isfinite(mean) else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the repeats; None if there are fewer than two."""
        is_repeated = self.score is not None and len(self.values) > 1
        return statistics.stdev(self.values) if is_repeated else None

    @property
    def last(self) -> tuple[int, float] | None:
        """The last epoch that was measured, and its value."""
        return max(self.curve.items(), default=None)

    @property
    def standing(self) -> float | None:
        """Where it stands among others: its score, or the last value before it was pruned."""
        return self.last[1] if self.outcome == "pruned" and self.last else self.score


@dataclass(frozen=True)
class StudyRecord:
    """All that a study has found so far.

    Attributes:
        objective: The validation score that was searched for.
        maximize: Whether more of it is better.
        strategy: How settings were proposed.
        num_validation: Samples of the validation split.
        space: Config key to range, as in TOML.
        trials: By number, with those that were queued again.
        importance: Of each parameter, the most important first; empty with too few trials.
        notes: Sentences for who reads the report.
    """

    objective: str
    maximize: bool
    strategy: str
    num_validation: int
    space: Mapping[str, Mapping[str, Any]]
    trials: tuple[TrialRecord, ...]
    importance: tuple[Importance, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def counted(self) -> tuple[TrialRecord, ...]:
        """The trials, without those whose place another one has taken."""
        return tuple(trial for trial in self.trials if trial.again is None)

    @property
    def baseline(self) -> TrialRecord | None:
        """The trial of the default settings, or that which has taken its place."""
        numbered = {trial.number: trial for trial in self.trials}
        trial = numbered.get(0)
        while trial is not None and trial.again is not None:
            trial = numbered[trial.again]
        return trial

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial of the best score: among equals the default settings, then the first.

        None if no trial has a score.
        """
        baseline, sign = self.baseline, 1 if self.maximize else -1
        ranked = [(sign * t.score, t is baseline, t) for t in self.trials if t.score is not None]
        return max(ranked, key=lambda entry: entry[:2])[2] if ranked else None

    @property
    def gain(self) -> float | None:
        """By how much the best is better than the default settings, 0 or more.

        None if either has no score.
        """
        best, baseline = self.best, self.baseline
        if best is None or best.score is None or baseline is None or baseline.score is None:
            return None
        return abs(best.score - baseline.score)

    def interval(self, trial: TrialRecord) -> Interval | None:
        """Bound a trial's score: by its repeats, else by the number of validation samples.

        Args:
            trial: One of the trials.

        Returns:
            Student's interval for the mean of repeats that differ; for a share of correct samples
            otherwise Wilson's; None where neither can be had.
        """
        score, spread, count = trial.score, trial.spread, len(trial.values)
        if score is None:
            return None
        if spread:
            half = float(stdtrit(count - 1, 0.975)) * spread / math.sqrt(count)
            most = math.inf if self.objective.endswith("loss") else 1.0
            return Interval(max(score - half, 0.0), min(score + half, most), "repeats")
        if self.objective in _SHARES_OF_SAMPLES and self.num_validation:
            low, high = wilson_interval(score, self.num_validation)
            return Interval(float(low), float(high), "samples")
        return None


def read_study(study: Study) -> StudyRecord:
    """Take from a study what a person wants to know of it.

    Args:
        study: A study of Foveate, at any time.

    Returns:
        Plain values; nothing in them leads back to Optuna.

    Raises:
        RunError: It is another program's study.
    """
    about = study.user_attrs
    if "objective" not in about:
        raise RunError(
            f"A study must say its objective, but {study.study_name!r} does not: Foveate has not "
            "made it. Look for another name in the storage."
        )
    trials = study.get_trials(deepcopy=False)
    space = about.get("space", {})
    histories = {trial.number: trial.system_attrs.get("retry_history", ()) for trial in trials}
    again = {history[-1]: number for number, history in histories.items() if history}
    return StudyRecord(
        objective=about["objective"],
        maximize=study.direction == StudyDirection.MAXIMIZE,
        strategy=about.get("strategy", ""),
        num_validation=about.get("num_validation", 0),
        space=space,
        trials=tuple(_read_trial(trial, space, again.get(trial.number)) for trial in trials),
        importance=importances(study),
        notes=tuple(about.get("notes", ())),
    )


def value_text(value: Any) -> str:
    """Write the value of a setting so that a person can take it in, numbers to four digits."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_trial(
    trial: FrozenTrial, space: Mapping[str, Mapping[str, Any]], again: int | None
) -> TrialRecord:
    told = trial.user_attrs
    value = () if trial.state != TrialState.COMPLETE or trial.value is None else (trial.value,)
    outcome, reason = _outcome(trial, again)
    return TrialRecord(
        number=trial.number,
        outcome=outcome,
        reason=reason,
        settings=_active(told.get("settings") or trial.params, space),
        values=tuple(told.get("values") or value),
        scores=told.get("scores") or {},
        curve={
            epoch: value
            for epoch, value in sorted(trial.intermediate_values.items())
            if math.isfinite(value)
        },
        cost=TrialCost(told.get("seconds"), told.get("peak_bytes"), told.get("batch_size")),
        folder=told.get("folder"),
        again=again,
    )


def _outcome(trial: FrozenTrial, again: int | None) -> tuple[Outcome, str]:
    """Say what became of a trial, and why; a worker may have died before it could tell."""
    if again is not None:
        return "queued again", f"its worker died; queued again as {again}"
    told, reason = trial.user_attrs.get("outcome"), trial.user_attrs.get("reason") or ""
    if not trial.state.is_finished():
        return _BY_STATE[trial.state], ""
    if trial.state == TrialState.FAIL and told in (None, "complete"):
        return "failed", reason or "its worker died, and it was not queued again"
    return cast(Outcome, told) if told in get_args(Outcome) else _BY_STATE[trial.state], reason


def _active(settings: Mapping[str, Any], space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Leave out what only means something under a condition that is not met."""
    conditions = {key: space.get(key, {}).get("when") or {} for key in settings}
    return {
        key: value
        for key, value in settings.items()
        if all(_is_met(settings, on, wanted) for on, wanted in conditions[key].items())
    }


def _is_met(settings: Mapping[str, Any], key: str, wanted: Any) -> bool:
    """Whether a setting has the value, or one of the values, that a condition names, if known."""
    return key not in settings or settings[key] in (
        wanted if isinstance(wanted, list | tuple) else (wanted,)
    )
