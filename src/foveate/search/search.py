"""The story of a search, top to bottom."""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Console

from foveate.config.files import with_settings
from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest, read_manifest
from foveate.errors import ConfigError, RunError
from foveate.runs import Run, next_folder
from foveate.search.answer import conclude
from foveate.search.look import Facts, look
from foveate.search.narrator import Narrator, show_space
from foveate.search.process import Child
from foveate.search.queue import queue_more, reclaim_lost
from foveate.search.space import Space
from foveate.search.study import StudyFolder, create_study, open_storage, reason_of, shown
from foveate.search.trial import with_share
from foveate.search.usual import usual_space
from foveate.search.worker import Worker

_ON_RESUME = ("search.trials", "search.workers", "search.budget.", "search.retrain")
_PATIENCE = 90.0  # seconds that a worker has to stop its trial, which has 60 itself


def search(
    data: Any,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> StudyFolder:
    """Find the best settings for data, trial by trial; none of them sees the test split.

    Args:
        data: A folder, a CSV or Parquet file, a dataframe, or a Manifest.
        config: The settings to beat, and in its group `search` what to vary, how and how long.
        out: The folder of the study, new or empty; ``runs/<data>-search-<number>`` when None.
        console: Where progress is shown; nowhere when None.

    Returns:
        The study's folder, with ``best.toml`` and ``search.html``.

    Raises:
        ConfigError: Settings contradict each other or the data.
        ManifestError: The data does not describe a usable dataset.
        RunError: The folder or the database cannot be used, or no trial has succeeded.
        MissingDependencyError: An optional package is needed.
        KeyboardInterrupt: After Ctrl-C; `resume` goes on.
    """
    began, console = time.time(), console or Console(quiet=True)
    config = config or RunConfig()
    folder, facts, space = prepare(data, config, out, console)
    with _leaving_nothing_half_done(folder), _needing_database("foveate search DATA, anew"):
        create_study(folder, config, facts, space)
    show_space(space, console)
    return _carry_out(folder, console, began, 0.0)


def prepare(
    data: Any, config: RunConfig, out: str | Path | None, console: Console
) -> tuple[StudyFolder, Facts, Space]:
    """Read the data, divide it into splits, settle what is varied.

    Args:
        data: As for `search`.
        config: As for `search`.
        out: As for `search`.
        console: As for `search`.

    Returns:
        Folder, what was found out, and what is varied.

    Raises:
        FoveateError: As for `search`; nothing is left behind.
    """
    Space(config)  # what is misspelt, or cannot be, is better told now
    with_share(config)
    stem = Path(data).resolve().stem if isinstance(data, str | Path) else "data"
    folder = StudyFolder(Path(out) if out else next_folder(Path("runs"), f"{stem}-search"))
    Run(folder.path).require_unused()
    with _leaving_nothing_half_done(folder), console.status("looking at the data"):
        manifest = data if isinstance(data, Manifest) else read_manifest(data, config.data)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.save_config(config)
        manifest.save(folder.manifest_path)
        facts = look(folder.path)
        ranges = config.search.space or usual_space(config, facts)
        return folder, facts, Space(config, ranges)


def resume(
    path: str | Path, changes: Mapping[str, Any] | None = None, console: Console | None = None
) -> StudyFolder:
    """Go on with a search that was stopped or killed, or make more trials.

    Args:
        path: The study's folder.
        changes: Settings that may be others now: how many trials, how long, how many workers.
        console: Where progress is shown; nowhere when None.

    Returns:
        As `search`.

    Raises:
        ConfigError: Another setting is to change: trials could not be compared.
        FoveateError: As for `search`.
        KeyboardInterrupt: After Ctrl-C.
    """
    began, folder = time.time(), StudyFolder(Path(path))
    for key in changes or {}:
        if not key.startswith(_ON_RESUME):
            raise ConfigError(
                f"A search that goes on keeps its settings, or its trials could not be compared; "
                f"only {', '.join(one.rstrip('.') for one in _ON_RESUME)} may change, but got "
                f"--{key}."
            )
    config = with_settings(folder.config(), changes or {})
    if config.search.strategy == "grid" and "search.trials" in (changes or {}):
        raise ConfigError(
            "A grid is tried whole, so search.trials changes nothing in a search that goes on. "
            "Leave it out."
        )
    with _needing_database(_command(folder)):
        study = folder.load()
        folder.save_config(config)
        reclaim_lost(study)
        queue_more(study, config.search)
        spent = 0.0 if "search.budget.time" in (changes or {}) else _spent(study)
    return _carry_out(folder, console or Console(quiet=True), began, spent)


def join(where: str, console: Console) -> None:
    """Work on a study that was started elsewhere, until nothing is left to do.

    Args:
        where: Its folder, or the URL of its database.
        console: Where progress is shown.

    Raises:
        RunError: There is no study that goes on, or its database cannot be reached any more.
        KeyboardInterrupt: After Ctrl-C; the trial is queued again.
    """
    number = uuid.uuid4().int % 2**31 + 1  # draws other random numbers than the others
    with _needing_database(f"foveate search --join {shlex.quote(shown(where))}"):
        folder = StudyFolder(Path(where)) if "://" not in where else _folder_of(where)
        with Narrator(folder, console):
            Worker(folder, number).work()


def _folder_of(url: str) -> StudyFolder:
    """Find the folder of the one study in a database that goes on."""
    storage = open_storage(url)
    going = [
        study
        for name in optuna.get_all_study_names(storage)
        if (study := optuna.load_study(study_name=name, storage=storage)).get_trials(
            False, (TrialState.WAITING, TrialState.RUNNING)
        )
        and "folder" in study.user_attrs  # else it is another program's
    ]
    if len(going) != 1:
        names = [study.study_name for study in going]
        raise RunError(
            f"--join needs a database with one study that goes on, but {shown(url)!r} has "
            f"{names or 'none'}. Give the study's folder instead."
        )
    folder = StudyFolder(Path(going[0].user_attrs["folder"]))
    if not folder.config_path.is_file():
        raise RunError(
            f"The folder of the study, {str(folder.path)!r}, must be reachable from here under "
            "the same path, since settings, samples and runs lie there."
        )
    return folder


def _carry_out(folder: StudyFolder, console: Console, began: float, spent: float) -> StudyFolder:
    """Work on the trials with as many workers as are wanted, then say what was found."""
    with _needing_database(_command(folder)):
        config, study = folder.config(), folder.load()
        seconds = config.search.budget.time
        study.set_user_attr("deadline", None if seconds is None else began + seconds - spent)
        study.set_user_attr("began", began - spent)
        try:
            with Narrator(folder, console), _others(folder, config.search.workers - 1):
                Worker(folder).work()
        except KeyboardInterrupt:
            text = f"Interrupted; to go on: {_command(folder)}"
            console.print(text, highlight=False, soft_wrap=True)
            raise
        conclude(folder, console)
    return folder


def _command(folder: StudyFolder) -> str:
    return f"foveate search --resume {shlex.quote(str(folder.path))}"


@contextmanager
def _needing_database(command: str) -> Iterator[None]:
    """Say which command goes on when the database goes away while a block runs.

    Raises:
        RunError: It did.
    """
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise RunError(
            "The database of the search must stay reachable and have room, but got: "
            f"{reason_of(error.__cause__ or error)}. To go on: {command}"
        ) from None


def _spent(study: optuna.Study) -> float:
    """Seconds that a study went on before, until its last trial ended."""
    ends = [one.datetime_complete for one in study.get_trials(deepcopy=False)]
    last = max((end.timestamp() for end in ends if end is not None), default=0.0)
    began = float(study.user_attrs.get("began", last))
    return max(last - began, 0.0)


@contextmanager
def _others(folder: StudyFolder, count: int) -> Iterator[None]:
    """Have further workers, which end when the queue is empty, or with this process."""
    workers = [Child("work", folder.path / "workers" / str(number + 1)) for number in range(count)]
    try:
        yield
        for worker in workers:
            while worker.is_running(1.0):
                pass
    except KeyboardInterrupt:
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:  # a second signal would end it at once, and so its trial
            worker.is_running(_PATIENCE)
        raise
    finally:
        for worker in workers:
            worker.kill()


@contextmanager
def _leaving_nothing_half_done(folder: StudyFolder) -> Iterator[None]:
    try:
        yield
    except (Exception, KeyboardInterrupt):
        Run(folder.path).discard()
        raise
