"""A worker of a study: takes trials from its queue until none is left."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from foveate.config.search import RangeConfig, SearchConfig
from foveate.errors import BudgetError, ConfigError, FoveateError, MissingDependencyError
from foveate.search.look import Facts
from foveate.search.nursery import Nursery
from foveate.search.queue import (
    QueuedStudy,
    QueueEmpty,
    has_outcome,
    original_number,
    queue_again,
    reclaim,
    settled,
    this_worker,
)
from foveate.search.space import Space
from foveate.search.study import StudyFolder, choose_pruning, open_storage
from foveate.search.trial import (
    Limits,
    TrialRuns,
    first_run,
    forget_weights,
    longest,
    memory_share,
    seconds_of,
    with_share,
)

_REPORT_SECONDS = 10.0
_WARM_EPOCHS = 1  # that say little yet
_WAIT = 2.0  # seconds between two looks at the queue while others work


class TrialFailed(Exception):  # noqa: N818  it is no fault of ours
    """A trial has no value, and others may go on."""


class Worker:
    """Works on the trials of a study.

    Args:
        folder: The study's.
        number: 0 for the one that started the study; others draw other random numbers, and their
            trials keep to other processors as far as there are some.
    """

    def __init__(self, folder: StudyFolder, number: int = 0) -> None:
        self._folder, self._number = folder, number
        self._config = folder.config()
        self._storage = open_storage(folder.storage_url())
        study = optuna.load_study(study_name=folder.name, storage=self._storage)
        about = study.user_attrs
        self._facts, self._deadline = Facts.from_dict(about["facts"]), about.get("deadline")
        ranges = {key: RangeConfig(**one) for key, one in about["space"].items()}
        self._space = Space(self._config, ranges)
        search = self._config.search
        self._pruner = _pruner(choose_pruning(search, about["objective"], self._facts))
        self._stopping = threading.Event()
        self._nursery = Nursery(
            self._config.runtime.backend,
            with_share(self._config).budget.cpus,
            folder.path / "log.txt",
            number,
        )

    def work(self) -> None:
        """Take trials until the queue is empty and nobody works on one, or the time is up.

        Raises:
            KeyboardInterrupt: This process was asked to stop; its trial is queued again.
        """
        with _asked_to_stop(self._stopping), closing(self._nursery):
            while True:
                study = self._load()
                reclaim(study)
                if not self._has_time(study):
                    return
                waiting = study.get_trials(False, (TrialState.WAITING,))
                if not waiting and self._is_endless:
                    study.enqueue_trial({})
                elif not waiting:
                    if not study.get_trials(False, (TrialState.RUNNING,)):
                        return
                    if self._stopping.wait(_WAIT):  # one that is running may be queued again
                        raise KeyboardInterrupt
                    continue
                self._take(study)

    @property
    def _is_endless(self) -> bool:
        """Whether the time decides how many trials there are."""
        search = self._config.search
        return search.trials is None and self._deadline is not None and search.strategy != "grid"

    def _load(self) -> optuna.Study:
        """Open the study with a sampler that depends on how many trials were begun, not on us."""
        study = QueuedStudy(self._folder.name, self._storage)
        begun = sum(one.state != TrialState.WAITING for one in study.get_trials(deepcopy=False))
        seeds = np.random.SeedSequence([self._config.seed, begun, self._number])
        with settled():
            study.sampler = _sampler(self._config.search, int(seeds.generate_state(1)[0]))
        study.pruner = self._pruner
        return study

    def _has_time(self, study: optuna.Study) -> bool:
        """Whether another trial is worth to begin: half of them took no longer than is left."""
        end = self._end(study)
        usual = statistics.median(seconds_of(study, (TrialState.COMPLETE,)) or [0.0])
        return end is None or time.time() + usual < end

    def _end(self, study: optuna.Study) -> float | None:
        """Moment at which the last trial must be over: the report follows, perhaps a last run."""
        if self._deadline is None:
            return None
        slowest = max(seconds_of(study, (TrialState.COMPLETE,)), default=0.0)
        last_run = slowest / self._config.search.repeats if self._config.search.retrain else 0.0
        return self._deadline - _REPORT_SECONDS - last_run

    def _take(self, study: optuna.Study) -> None:
        taken: list[int] = []

        def objective(trial: optuna.Trial) -> float:
            taken.append(trial.number)
            return self._run(study, trial)

        try:
            study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        except QueueEmpty:
            return
        except KeyboardInterrupt:
            for number in taken:  # Optuna has ended it
                ended = study.get_trials(deepcopy=False)[number]
                queue_again(study, ended, was_stopped=True)
            raise
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if taken and has_outcome(study.get_trials(deepcopy=False)[taken[0]]):
                raise
            return  # this process stood still for so long that another ended the trial
        for number in taken:
            self._tidy(study, study.get_trials(deepcopy=False)[number])

    def _tidy(self, study: optuna.Study, ended: optuna.trial.FrozenTrial) -> None:
        """Keep the weights of the best trial alone, and of those that once were."""
        complete = study.get_trials(False, (TrialState.COMPLETE,))
        if not complete or study.best_trial.number != ended.number:
            forget_weights(self._folder.trial(original_number(ended)))

    def _run(self, study: optuna.Study, trial: optuna.Trial) -> float:
        """Run a trial, and keep how it ended: what `optuna.study.Study.optimize` calls."""
        began = time.monotonic()
        trial.set_user_attr("worker", this_worker())
        outcome, reason = "", ""  # without one it is to be tried again
        try:
            value = self._runs(study, trial).value()
            outcome = "complete"
            return value
        except optuna.TrialPruned as error:
            outcome, reason = "pruned", str(error)
            raise
        except (BudgetError, ConfigError) as error:
            outcome, reason = "infeasible", str(error)
            raise optuna.TrialPruned(reason) from None  # of which a sampler learns
        except TimeoutError as error:
            outcome, reason = "timed out", str(error)
            raise TrialFailed(reason) from None
        except (FoveateError, RuntimeError, OSError) as error:
            outcome, reason = "failed", str(error)
            raise TrialFailed(reason) from None
        finally:
            if outcome:
                trial.set_user_attr("seconds", round(time.monotonic() - began, 3))
                trial.set_user_attr("reason", reason)
                trial.set_user_attr("outcome", outcome)

    def _runs(self, study: optuna.Study, trial: optuna.Trial) -> TrialRuns:
        """Settle the settings of a trial, and what it may take."""
        if trial.user_attrs.get("baseline"):
            values = self._space.settled()
            self._space.suggest(trial, self._space.defaults_within())
            trial.set_user_attr("settings", self._space.defaults())
        else:
            values = self._space.suggest(trial)
            trial.set_user_attr("settings", values)
        frozen = study.get_trials(deepcopy=False)[trial.number]
        folder = self._folder.trial(original_number(frozen))
        first = first_run(folder).relative_to(self._folder.path)
        trial.set_user_attr("folder", first.as_posix())
        config = with_share(self._space.config(values))
        limits = Limits(
            memory_share(config),
            longest(study, self._config.search),
            self._end(study),
            self._stopping,
        )
        nursery = self._nursery if self._is_nursery_worth_it(study) else None
        return TrialRuns(trial, config, folder, self._facts, limits, nursery, part=self._number)

    def _is_nursery_worth_it(self, study: optuna.Study) -> bool:
        """Whether trials go on to their ends, on one backend, and no memory is to be saved."""
        return (
            Nursery.is_possible()
            and self._config.budget.ram is None
            and "runtime.backend" not in self._space.ranges
            and bool(study.get_trials(False, (TrialState.COMPLETE,)))
        )


def _sampler(config: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    match config.strategy:
        case "bayesian":
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        case "gaussian_process":
            try:
                import torch  # noqa: F401  that Optuna needs for it
            except ImportError:
                raise MissingDependencyError(
                    "search.strategy gaussian_process needs torch. Run: pip install torch"
                ) from None
            return optuna.samplers.GPSampler(seed=seed)
        case _:  # what a grid queues is fixed
            return optuna.samplers.RandomSampler(seed=seed)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    match name:
        case "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=_WARM_EPOCHS)
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner()
        case "hyperband":
            return optuna.pruners.HyperbandPruner()
        case _:
            return optuna.pruners.NopPruner()


@contextmanager
def _asked_to_stop(stopping: threading.Event) -> Iterator[None]:
    """Have SIGINT and SIGTERM set an event; the second one ends this process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of its business
        return

    def stop(number: int, frame: Any) -> None:
        del number, frame
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
