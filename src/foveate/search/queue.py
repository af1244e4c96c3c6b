"""The queue of a study's trials: what is in it at first, and what comes back to it.

A trial that waits is taken by one worker alone; one whose worker is gone is queued again.
"""

from __future__ import annotations

import copy
import os
import socket
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil

from foveate.config.search import SearchConfig
from foveate.errors import ConfigError, MissingDependencyError
from foveate.search.space import Space

try:
    import optuna
    from optuna.trial import TrialState
except ImportError:
    if not TYPE_CHECKING:
        raise MissingDependencyError(
            'A search needs Optuna. Run: pip install "foveate[search]"'
        ) from None
from optuna.storages._heartbeat import BaseHeartbeat

HEARTBEAT = 10
"""Seconds between two signs of life of a worker."""
GRACE = 60
"""Seconds without one after which it counts as gone."""
_MOST_RETRIES = 3  # of a trial whose worker was killed: perhaps it is what kills
_TRIALS = 20
_CLOCK_SECONDS = 5.0


class QueueEmpty(Exception):  # noqa: N818  nothing has gone wrong
    """No trial waits any more: others have taken them."""


class QueuedStudy(optuna.Study):
    """A study of which only queued trials are taken: Optuna would add one to an empty queue.

    A heart beats for a trial from when it is taken. Optuna leaves the first beat to a thread,
    and a trial without one never counts as left: not even if its worker stands still.
    """

    def _pop_waiting_trial_id(self) -> int:
        taken = super()._pop_waiting_trial_id()
        if taken is None:
            raise QueueEmpty
        if isinstance(self._storage, BaseHeartbeat):
            self._storage.record_heartbeat(taken)
        return taken


def first_trials(config: SearchConfig, space: Space) -> Iterator[dict[str, Any]]:
    """Say what to queue after the default settings.

    Args:
        config: How to search.
        space: What to vary.

    Yields:
        Values to fix, by key; a sampler chooses the others.

    Raises:
        ConfigError: A grid is larger than the number of trials, or has no end.
    """
    if config.strategy != "grid":
        for _ in range(num_trials(config) - 1):
            yield {}
        return
    combinations = [one for one in space.grid() if one != space.defaults_within()]
    if config.trials is not None and len(combinations) >= config.trials:
        raise ConfigError(
            f"A grid is tried whole, but got {len(combinations) + 1} combinations for "
            f"search.trials = {config.trials}. Name fewer values, or choose search.strategy "
            "random."
        )
    yield from combinations


def num_trials(config: SearchConfig) -> int:
    """Say how many trials are queued from the start; where the time decides, one at a time."""
    return config.trials or (1 if config.budget.time is not None else _TRIALS)


def queue_more(study: optuna.Study, config: SearchConfig) -> None:
    """Queue what is missing to the number of trials that is wanted now."""
    if config.strategy == "grid":
        return
    there = {original_number(one) for one in study.get_trials(deepcopy=False)}
    for _ in range(num_trials(config) - len(there)):
        study.enqueue_trial({})


@contextmanager
def settled() -> Iterator[None]:
    """Keep Optuna from warning of what it calls experimental and we have settled on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def reclaim(study: optuna.Study) -> None:
    """Queue the trials again whose worker is gone: it has not been heard of, or is dead here."""
    with settled():
        optuna.storages.fail_stale_trials(study)
    for one in study.get_trials(False, (TrialState.RUNNING,)):
        if _is_left(one):
            give_up(study, one.number)


def give_up(study: optuna.Study, number: int) -> None:
    """End a trial that nobody works on any more, and queue it again."""
    try:
        ended = study.tell(number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return  # another worker was faster
    queue_again(study, ended)


def reclaim_lost(study: optuna.Study) -> None:
    """Queue the trials again that were ended as abandoned, but whose worker was killed then.

    Only one process may do it at a time: for who resumes a study.
    """
    trials = study.get_trials(deepcopy=False)
    succeeded = {number for one in trials for number in one.system_attrs.get("retry_history", [])}
    for one in trials:
        if one.state == TrialState.FAIL and not has_outcome(one) and one.number not in succeeded:
            queue_again(study, one)


def has_outcome(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a worker has said how a trial ended."""
    return "outcome" in trial.user_attrs


def original_number(trial: optuna.trial.FrozenTrial) -> int:
    """Number of the trial that this one repeats, or is."""
    return min([*trial.system_attrs.get("retry_history", []), trial.number])


def this_worker() -> dict[str, Any]:
    """Describe this process so that others on this machine can tell whether it lives."""
    own = psutil.Process()
    return {"host": _host(), "pid": own.pid, "since": own.create_time()}


def _host() -> str:
    return f"{socket.gethostname()} {uuid.getnode():x}"


def _is_left(trial: optuna.trial.FrozenTrial) -> bool:
    worker = trial.user_attrs.get("worker")
    if worker is None:  # it was killed between taking the trial and saying so
        began = trial.datetime_start or datetime.max
        return datetime.now() - began > timedelta(seconds=GRACE)
    if worker["host"] != _host() or worker["pid"] == os.getpid():
        return False  # heartbeats will tell
    try:
        began = psutil.Process(worker["pid"]).create_time()
        # A clock that is set moves the time of boot, and so what two processes say of a third.
        return bool(abs(began - worker["since"]) > _CLOCK_SECONDS)
    except psutil.Error:
        return True


def queue_again(
    study: optuna.Study, trial: optuna.trial.FrozenTrial, *, was_stopped: bool = False
) -> None:
    """Queue a trial once more that has ended without an outcome.

    Args:
        study: Its study.
        trial: What has ended.
        was_stopped: Whether its worker was asked to stop, which may be as often as one likes; a
            trial whose worker was killed for the fourth time is given up.
    """
    deaths = trial.user_attrs.get("deaths", 0) + (not was_stopped)
    if deaths > _MOST_RETRIES:
        return
    again = copy.copy(trial)  # what it inherits: not who had worked on it
    again.user_attrs = {key: one for key, one in trial.user_attrs.items() if key == "baseline"}
    again.user_attrs["deaths"] = deaths
    history = list(trial.system_attrs.get("retry_history", []))  # to which Optuna appends
    again.system_attrs = {**trial.system_attrs, "retry_history": history}
    with settled():
        optuna.storages.RetryHeartbeatStaleTrialCallback()(study, again)
