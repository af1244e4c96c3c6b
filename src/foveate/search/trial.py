"""One trial of a study: runs in processes of their own, watched, and ended where need be."""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import ByteSize

from foveate import machine
from foveate.config.files import to_toml, with_settings
from foveate.config.search import SearchConfig
from foveate.config.settings import RunConfig
from foveate.disk import write_atomically
from foveate.errors import BudgetError
from foveate.planning.plan import size_text
from foveate.runs import Run
from foveate.search.look import Facts
from foveate.search.nursery import Nursery
from foveate.search.process import Child
from foveate.search.proxy import is_among_best, proxy_settings, save_share, standing

_LOOK_EVERY = 0.2  # seconds between two looks at a run
_HUNG = 5.0  # times as long as the slowest trial so far
_HUNG_AT_LEAST = 600.0  # seconds
_LEFT_TO_OTHERS = 0.1  # of the machine's memory
_OF_WORKER = 350 * 1024**2  # bytes that a worker takes itself: 322 MiB after 200 trials
_OVER = 1.1  # a run holds itself to its budget; what goes so far over does not


class TrialRuns:
    """The runs of one trial.

    Args:
        trial: Told every epoch, if its pruner wants to know.
        config: The settings of the runs, but for the seed.
        folder: Where their folders go.
        facts: What data and model are like.
        limits: What ends a run.
        nursery: Starts the runs; without one, each starts Python anew.
        part: Which part of the processors they keep to: that of their worker.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        config: RunConfig,
        folder: Path,
        facts: Facts,
        limits: Limits,
        nursery: Nursery | None = None,
        part: int = 0,
    ) -> None:
        self._trial, self._config, self._folder = trial, config, folder
        self._facts, self._limits = facts, limits
        self._nursery, self._part = nursery, part
        self._objective = str(trial.study.user_attrs["objective"])

    def value(self) -> float:
        """Run the repeats and give the mean of their scores; all that they told is kept.

        Raises:
            optuna.TrialPruned: It is not worth to go on.
            FoveateError: As for the run.
            BudgetError: It takes more memory than its part.
            TimeoutError: It takes longer than it may.
            RuntimeError: Its process died.
            KeyboardInterrupt: This process was asked to stop; the run can be gone on with.
        """
        if self._config.search.proxy != "none":
            self._try_proxy()
        repeats = self._config.search.repeats
        found = [self._run_once(number) for number in range(repeats)]
        values = [float(one["scores"][self._objective]) for one in found]
        self._trial.set_user_attr("values", values)
        self._trial.set_user_attr("scores", found[0]["scores"])
        self._trial.set_user_attr("batch_size", found[0]["batch_size"])
        peak = max(one["peak_bytes"] for one in found)
        self._trial.set_user_attr("peak_bytes", peak)
        value = statistics.fmean(values)
        if value != value:
            raise RuntimeError(f"the {self._objective} is not a number")
        return value

    def _try_proxy(self) -> None:
        """Have a cheap run decide whether the full one is worth it, where it can be trusted."""
        known = standing(self._trial.study)
        if known.is_dropped:
            return
        folder = self._folder / "proxy"
        if self._config.search.proxy == "share":
            save_share(self._folder.parents[1] / "manifest.parquet", folder / "manifest.parquet")
        changes = proxy_settings(self._config.search, self._facts)
        found = self._run(folder, with_settings(self._config, changes), None)
        value = float(found["scores"][self._objective])
        self._trial.set_user_attr("proxy", value)
        if not known.is_trusted:
            self._trial.set_user_attr("calibrates", True)
        elif not is_among_best(self._trial.study, value):
            raise optuna.TrialPruned(
                f"its proxy ({self._config.search.proxy}) reached {value:.4f} only, not among the "
                "best third"
            )

    def _run_once(self, number: int) -> dict[str, Any]:
        folder = self._folder / str(number + 1)
        config = with_settings(self._config, {"seed": self._config.seed + number})
        epochs = Epochs(self._trial, Run(folder / "run"), self._objective)
        return self._run(folder, config, epochs if number == 0 else None)

    def _run(self, folder: Path, config: RunConfig, epochs: Epochs | None) -> dict[str, Any]:
        """Train in a process of its own, and give what it found."""
        config = config.model_copy(update={"search": SearchConfig()})
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config.toml", to_toml(config))
        child = Child("train", folder, self._nursery, self._part)
        try:
            while child.is_running(_LOOK_EVERY):
                self._limits.require_within(child)
                if epochs is not None and epochs.tell():
                    raise optuna.TrialPruned(epochs.reason)
            if epochs is not None:
                epochs.tell()  # it has come to its end: too late to end it
            return child.outcome()
        except KeyboardInterrupt:
            child.stop()
            raise
        finally:
            child.kill()


class Limits:
    """What ends a run that does not end itself.

    Args:
        memory: Bytes that it may take.
        seconds: How long it may take; None for as long as it likes.
        deadline: Moment (`time.time`) at which nothing may run any more; None for never.
        stopping: Set when this process is asked to stop.
    """

    def __init__(
        self,
        memory: int,
        seconds: float | None,
        deadline: float | None,
        stopping: threading.Event,
    ) -> None:
        self._memory, self._seconds = memory, seconds
        self._deadline, self._stopping = deadline, stopping

    def require_within(self, child: Child) -> None:
        """Check what a process takes.

        Raises:
            BudgetError: Too much memory.
            TimeoutError: Too long.
            KeyboardInterrupt: This process was asked to stop.
        """
        if self._stopping.is_set():
            raise KeyboardInterrupt
        taken = child.memory_bytes()
        if taken > self._memory:
            raise BudgetError(
                f"it took {size_text(taken)} of memory, more than the {size_text(self._memory)} "
                "that a trial may take"
            )
        seconds = time.monotonic() - child.started
        if self._seconds is not None and seconds > self._seconds:
            raise TimeoutError(f"it had not ended after {seconds:.0f} s")
        if self._deadline is not None and time.time() > self._deadline:
            raise TimeoutError("the time of the search was up")


class Epochs:
    """Tells a study what each epoch of a run has reached.

    Args:
        trial: Whose pruner is asked.
        run: What is running.
        objective: Name of the score.
    """

    def __init__(self, trial: optuna.Trial, run: Run, objective: str) -> None:
        self._trial, self._run, self._key = trial, run, f"val_{objective}"
        self._told = 0

    def tell(self) -> bool:
        """Report the epochs that have ended since.

        Returns:
            Whether the trial is behind the others, so that it is not worth to go on; one that
            has been trained to its end is.
        """
        epochs = self._run.history()
        for number, epoch in enumerate(epochs[self._told :], self._told + 1):
            value = epoch.get(self._key)
            if value is not None and "image_size" not in epoch:  # smaller ones do not compare
                self._trial.report(value, number)
        is_new, self._told = len(epochs) > self._told, len(epochs)
        return is_new and self._run.is_unfinished() and self._trial.should_prune()

    @property
    def reason(self) -> str:
        """Why a trial was ended."""
        return f"behind the others after epoch {self._told}"


def first_run(folder: Path) -> Path:
    """The run of a trial, of several the first."""
    return folder / "1" / "run"


def forget_weights(folder: Path) -> None:
    """Delete what is large of a trial's runs and of use only while they might be the best."""
    for run in folder.glob("*/run"):
        for large in (Run(run).model_folder, Run(run).checkpoints):
            shutil.rmtree(large, ignore_errors=True)


def memory_share(config: RunConfig) -> int:
    """Bytes that a trial may take before it is ended.

    Args:
        config: Its settings, as `with_share` gives them.
    """
    stated = config.budget.ram
    if stated is not None:
        return round(_OVER * stated)
    return round(machine.memory_bytes() * (1 - _LEFT_TO_OTHERS) / config.search.workers)


def with_share(config: RunConfig) -> RunConfig:
    """Give a trial its part of memory and processors, less what its worker takes itself.

    Where a system cannot keep a process to some processors, trials share them all.

    Raises:
        BudgetError: Nothing is left for it.
    """
    workers, budget = config.search.workers, config.budget
    changes: dict[str, Any] = {}
    if workers > 1 and (budget.cpus is not None or machine.can_limit_cpus()):
        changes["cpus"] = max((budget.cpus or machine.cpu_count()) // workers, 1)
    if budget.ram is not None:
        if budget.ram <= workers * _OF_WORKER:
            raise BudgetError(
                f"budget.ram must be more than the {size_text(workers * _OF_WORKER)} that "
                f"{workers} worker(s) of a search take themselves, but got "
                f"{size_text(budget.ram)}. Raise it, or lower search.workers."
            )
        changes["ram"] = ByteSize(budget.ram // workers - _OF_WORKER)
    return config.model_copy(update={"budget": budget.model_copy(update=changes)})


def longest(study: optuna.Study, config: SearchConfig) -> float | None:
    """Seconds after which a run counts as hung; None as long as nothing is known."""
    if config.budget.trial_time is not None:
        return config.budget.trial_time
    slowest = max(seconds_of(study, (TrialState.COMPLETE,)), default=None)
    return None if slowest is None else max(_HUNG_AT_LEAST, _HUNG * slowest)


def seconds_of(study: optuna.Study, states: tuple[TrialState, ...]) -> list[float]:
    """List how long trials took that ended like this."""
    return [
        one.user_attrs["seconds"]
        for one in study.get_trials(deepcopy=False, states=states)
        if "seconds" in one.user_attrs
    ]
