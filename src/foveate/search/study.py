"""A study: its folder and its database."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from foveate.config.files import load_config, to_toml
from foveate.config.search import SearchConfig
from foveate.config.settings import RunConfig
from foveate.disk import write_atomically
from foveate.errors import ConfigError, MissingDependencyError, RunError, nearest
from foveate.search.look import Facts
from foveate.search.proxy import proxy_settings
from foveate.search.queue import GRACE, HEARTBEAT, first_trials, queue_again, settled
from foveate.search.space import Space

_LOCK_SECONDS = 60  # that a worker waits for another one to be done with the database file
_LOWER_IS_BETTER = ("log_loss",)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


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


class _Storage(optuna.storages.RDBStorage):
    """A database in which a trial's heart goes on to beat after a while without connection.

    A thread of Optuna beats: an error would end it with a traceback. Who works on the trial learns
    of a database that stays away when it uses it itself.
    """

    def record_heartbeat(self, trial_id: int) -> None:
        with contextlib.suppress(optuna.exceptions.StorageInternalError):
            super().record_heartbeat(trial_id)


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Connect to a database that workers share.

    Args:
        url: As SQLAlchemy takes it; ``${NAME}`` stands for an environment variable.

    Returns:
        A storage that notices when a worker is gone, and queues its trial again.

    Raises:
        RunError: It cannot be reached, or a variable is not set.
        MissingDependencyError: Its driver is not installed.
    """
    full_url = _VARIABLE.sub(_value, url)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to say, we say
    options: dict[str, Any] = {"poolclass": NullPool}  # no connection is left open
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": _LOCK_SECONDS}
    with settled():
        try:
            storage = _Storage(
                full_url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=queue_again,
            )
        except ImportError as error:
            raise MissingDependencyError(
                f"search.storage {shown(url)!r} needs a database driver: "
                f'{error.__cause__ or error}. For PostgreSQL: pip install "psycopg[binary]"'
            ) from None
        except Exception as error:
            raise RunError(
                "search.storage must be a database that can be reached, but got "
                f"{shown(url)!r}: {reason_of(error)}"
            ) from None
    if url.startswith("sqlite"):
        _lock_before_reading(storage.engine)
    return storage


def reason_of(error: BaseException) -> str:
    """Say in a line why a database cannot be used: what its driver says, without the statement."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _lock_before_reading(engine: Engine) -> None:
    """Have each transaction of SQLite wait for its turn before it reads.

    Its driver locks the file at the first change only: two workers would read that a trial
    waits, and both would take it.
    """

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, record: Any) -> None:
        del record
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _value(variable: re.Match[str]) -> str:
    name = variable[1]
    if name not in os.environ:
        raise RunError(
            f"search.storage must name environment variables that are set, but got ${{{name}}}."
        )
    return os.environ[name]


def shown(url: str) -> str:
    """Write the URL of a database without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


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
    queue = list(first_trials(config.search, space))
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
