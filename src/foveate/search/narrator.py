"""Tells whoever looks on how a search goes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from foveate.search.outcome import StudyRecord, value_text
from foveate.search.queue import has_outcome, original_number
from foveate.search.report import range_text
from foveate.search.space import Space
from foveate.search.study import StudyFolder

_EVERY = 2.0  # seconds


class Narrator:
    """Prints a line for each trial that has ended, whoever worked on it, while a block runs.

    Args:
        folder: The study's.
        console: Where to print; with a terminal, a status line as well.
    """

    def __init__(self, folder: StudyFolder, console: Console) -> None:
        self._study, self._console = folder.load(), console
        self._told = {one.number for one in self._study.get_trials(deepcopy=False) if _ended(one)}
        self._status = console.status(self._summary())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="narrator", daemon=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        try:
            self._tell()
        finally:
            self._status.stop()

    def _watch(self) -> None:
        while not self._stopping.wait(_EVERY):
            with contextlib.suppress(optuna.exceptions.StorageInternalError):  # workers raise it
                self._tell()

    def _tell(self) -> None:
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if _ended(trial) and trial.number not in self._told:
                self._told.add(trial.number)
                text = self._line(trial, trials)
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._status.update(self._summary())

    def _line(self, trial: FrozenTrial, trials: list[FrozenTrial]) -> str:
        name = f"trial {original_number(trial)}"
        name += " (default settings)" if trial.user_attrs.get("baseline") else ""
        if not has_outcome(trial):
            return f"{name}: stopped; queued again"
        seconds = f"{trial.user_attrs['seconds']:.0f} s"
        if trial.value is None or trial.state != TrialState.COMPLETE:
            how, why = trial.user_attrs["outcome"], trial.user_attrs["reason"]
            return f"{name}: {how}, {seconds}: {why}"
        earlier = [one for one in trials if one.number in self._told and one is not trial]
        settings = ", ".join(
            f"{key}={value_text(value)}" for key, value in trial.user_attrs["settings"].items()
        )
        objective = self._study.user_attrs["objective"]
        best = ", the best so far" if self._is_best(trial, earlier) else ""
        return f"{name}: {objective} {trial.value:.4f}{best}, {seconds}; {settings}"

    def _is_best(self, trial: FrozenTrial, others: list[FrozenTrial]) -> bool:
        """Whether it beats all others that have a value, of which there is one at least."""
        values = [one.value for one in others if one.state == TrialState.COMPLETE]
        sign = 1 if self._study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        better = [sign * (trial.value or 0.0) > sign * (value or 0.0) for value in values]
        return bool(better) and all(better)

    def _summary(self) -> str:
        trials = self._study.get_trials(deepcopy=False)
        counted = {original_number(one) for one in trials}
        done = {original_number(one) for one in trials if has_outcome(one)}
        running = sum(one.state == TrialState.RUNNING for one in trials)
        complete = [one for one in trials if one.state == TrialState.COMPLETE]
        best = f", best {self._study.best_value:.4f}" if complete else ""
        return f"{len(done)} of {len(counted)} trials done, {running} running{best}"


def show_space(space: Space, console: Console) -> None:
    """Print what is varied: without a terminal, plain lines."""
    defaults, entries = space.defaults(), space.to_dict()
    if not console.is_terminal:
        for key, entry in entries.items():
            text = f"{key}: {range_text(entry)} (default {value_text(defaults[key])})"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("varied", "from", "default"):
        table.add_column(name)
    for key, entry in entries.items():
        table.add_row(key, range_text(entry), value_text(defaults[key]))
    console.print(table)


def show_answer(record: StudyRecord, notes: Sequence[str], console: Console) -> None:
    """Print the best settings, and how much better than the default ones they are."""
    best, baseline = record.best, record.baseline
    if best is None:
        return
    interval = record.interval(best)
    within = f" (95 % interval {interval.low:.4f} to {interval.high:.4f})" if interval else ""
    versus = ""
    if best is baseline:
        versus = "; they are the default ones, which no other trial has beaten"
    elif baseline is not None and baseline.score is not None:
        versus = f"; the default ones reached {baseline.score:.4f}"
    lines = [f"Best settings: {record.objective} {best.score:.4f}{within}{versus}"]
    lines += [f"  {key} = {value_text(value)}" for key, value in best.settings.items()]
    for line in [*lines, *notes]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _ended(trial: FrozenTrial) -> bool:
    return bool(trial.state.is_finished())
