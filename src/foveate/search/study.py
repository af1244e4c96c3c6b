"""A study: its folder, its database, its queue of trials; what is Optuna's stays Optuna's."""

from __future__ import annotations

import copy
import os
import socket
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from foveate.config.files import load_config, to_toml
from foveate.config.search import SearchConfig
from foveate.config.settings import RunConfig
from foveate.disk import write_atomically
from foveate.errors import ConfigError, MissingDependencyError, RunError, nearest
from foveate.search.look import Facts
from foveate.search.proxy import proxy_settings
from foveate.search.space import Space

try:
    import optuna
    from optuna.trial import TrialState
    from sqlalchemy.pool import NullPool
except ImportError:
    if not TYPE_CHECKING:
        raise MissingDependencyError(
            'A search needs Optuna. Run: pip install "foveate[search]"'
        ) from None

_HEARTBEAT = 10  # seconds
_GRACE = 60  # seconds without a heartbeat after which a worker counts as gone
_MOST_RETRIES = 3  # of a trial whose worker was killed: perhaps it is what kills
_LOCK_SECONDS = 60  # that a worker waits for another one to be done with the database file
_LOWER_IS_BETTER = ("log_loss",)
_TRIALS = 20


@dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps what is not in its database.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config_path(self) -> Path:
        """All settings, those of the search included."""
        return self.path / "config.toml"

    @property
    def manifest_path(self) -> Path:
        """The samples with their splits, the same for all trials."""
        return self.path / "manifest.parquet"

    @property
    def best_path(self) -> Path:
        """The best settings, for `foveate train --config`."""
        return self.path / "best.toml"

    @property
    def report_path(self) -> Path:
        """What was found, one offline HTML file."""
        return self.path / "search.html"

    def trial(self, number: int) -> Path:
        """The folder of a trial, in which each of its runs has a folder."""
        return self.path / "trials" / f"{number:04d}"

    def config(self) -> RunConfig:
        """Read the settings.

        Raises:
            RunError: There is no study.
        """
        if not self.config_path.is_file():
            raise RunError(
                f"The folder of a search holds config.toml, but {str(self.path)!r} does not. "
                "Give the one that `foveate search` printed."
            )
        return load_config(self.config_path)

    def save_config(self, config: RunConfig) -> None:
        """Store the settings."""
        write_atomically(self.config_path, to_toml(config))

    def storage_url(self) -> str:
        """Where the database is: a stated one, else a file in the folder."""
        return self.config().search.storage or f"sqlite:///{self.path.resolve() / 'study.db'}"

    @property
    def name(self) -> str:
        """Name of the study in its database."""
        return self.path.resolve().name

    def load(self) -> optuna.Study:
        """Open the study in its database.

        Raises:
            RunError: There is none, or the database cannot be reached.
        """
        try:
            return optuna.load_study(
                study_name=self.name, storage=open_storage(self.storage_url())
            )
        except KeyError:
            raise RunError(
                f"The database of the search in {str(self.path)!r} holds no study "
                f"{self.name!r}: the search was stopped before its first trial, or its folder "
                "has another name now. Start anew."
            ) from None


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Connect to a database that workers share.

    Args:
        url: As SQLAlchemy takes it.

    Returns:
        A storage that notices when a worker is gone, and queues its trial again.

    Raises:
        RunError: It cannot be reached.
        MissingDependencyError: Its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to say, we say
    options: dict[str, Any] = {"poolclass": NullPool}  # no connection is left open
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": _LOCK_SECONDS}
    with settled():
        try:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=_HEARTBEAT,
                grace_period=_GRACE,
                heartbeat_stale_trial_callback=queue_again,
            )
        except ImportError as error:
            raise MissingDependencyError(
                f"search.storage {url!r} needs a database driver: {error.__cause__ or error}. For "
                'PostgreSQL: pip install "psycopg[binary]"'
            ) from None
        except Exception as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise RunError(
                f"search.storage must be a database that can be reached, but got {url!r}: {reason}"
            ) from None


def create_study(folder: StudyFolder, config: RunConfig, facts: Facts, space: Space) -> None:
    """Start a study, and queue its trials: the default settings first.

    Args:
        folder: Where it is.
        config: The settings.
        facts: What data and model are like.
        space: What to vary.

    Raises:
        ConfigError: The settings contradict the data.
        RunError: The database holds a study of this name.
    """
    objective = choose_objective(config.search, facts)
    choose_pruning(config.search, objective, facts)
    proxy_settings(config.search, facts)
    queue = list(_first_trials(config.search, space))
    try:
        study = optuna.create_study(
            storage=open_storage(folder.storage_url()),
            study_name=folder.name,
            direction="minimize" if objective in _LOWER_IS_BETTER else "maximize",
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise RunError(
            f"search.storage holds a study named {folder.name!r} already. Choose another folder "
            "with --out, or go on with that one: --resume FOLDER, or --join."
        ) from None
    about = {
        "objective": objective,
        "strategy": config.search.strategy,
        "space": space.to_dict(),
        "folder": str(folder.path.resolve()),
        "num_validation": facts.num_validation,
        "facts": asdict(facts),
    }
    for key, value in about.items():
        study.set_user_attr(key, value)
    study.enqueue_trial(space.defaults_within(), user_attrs={"baseline": True})
    for values in queue:
        study.enqueue_trial(values)


def choose_objective(config: SearchConfig, facts: Facts) -> str:
    """Name the score that is to become best.

    Raises:
        ConfigError: There is no such score, or nothing to judge by.
    """
    if not facts.num_validation:
        raise ConfigError(
            "A search chooses by the validation split, but got none. Set data.splits.validation."
        )
    if config.objective == "auto":
        return facts.told[0]
    if config.objective not in facts.scores:
        raise ConfigError(
            f"search.objective must be one of {list(facts.scores)}, but got "
            f"{config.objective!r}.{nearest(config.objective, facts.scores)}"
        )
    return config.objective


def choose_pruning(config: SearchConfig, objective: str, facts: Facts) -> str:
    """Name how trials are ended early.

    Raises:
        ConfigError: The objective is not told while a run goes on.
    """
    if config.pruning == "auto":
        return "median" if objective in facts.told else "none"
    if config.pruning != "none" and objective not in facts.told:
        raise ConfigError(
            f"search.pruning needs an objective that is told every epoch, one of "
            f"{list(facts.told)}, but got {objective!r}. Set search.pruning to none."
        )
    return config.pruning


def _first_trials(config: SearchConfig, space: Space) -> Iterator[dict[str, Any]]:
    """What to queue after the default settings: parameters to fix, the others are suggested."""
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
        return datetime.now() - began > timedelta(seconds=_GRACE)
    if worker["host"] != _host() or worker["pid"] == os.getpid():
        return False  # heartbeats will tell
    try:
        return bool(psutil.Process(worker["pid"]).create_time() != worker["since"])
    except psutil.Error:
        return True


def queue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue a trial once more that has ended without an outcome."""
    again = copy.copy(trial)  # what it inherits: not who had worked on it
    again.user_attrs = {key: one for key, one in trial.user_attrs.items() if key == "baseline"}
    with settled():
        optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_MOST_RETRIES)(study, again)
