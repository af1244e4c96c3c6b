"""The run folder: the one place that knows its file names; every write to it is atomic."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from foveate.config.files import load_config, to_toml
from foveate.config.settings import RunConfig
from foveate.disk import is_locked, write_atomically
from foveate.errors import RunError


def next_folder(parent: Path, stem: str) -> Path:
    """Find the first free ``parent/stem-N``.

    Args:
        parent: Where runs are kept; need not exist.
        stem: What the run is about, such as the name of its data.

    Returns:
        A path that does not exist.
    """
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"


class Run:
    """One training and what it leaves.

    Attributes:
        folder: Where everything of the run lies.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: str | Path, config: RunConfig) -> Run:
        """Start a run in a folder that is new or empty.

        Args:
            folder: The run folder; missing parents are made.
            config: The settings, stored as ``config.toml``.

        Returns:
            The run, with status ``running``.

        Raises:
            RunError: The folder holds something already, or cannot be made.
        """
        run = cls(folder)
        run.require_unused()
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"The run folder {str(run.folder)!r} must be writable, but got: {error.strerror}."
            ) from None
        run.save_config(config)
        run.set_status("running")
        return run

    def save_config(self, config: RunConfig) -> None:
        """Store the settings; those that were, are replaced."""
        write_atomically(self.config_path, to_toml(config))

    def require_unused(self) -> None:
        """Check that nothing would be overwritten.

        Raises:
            RunError: The folder holds something already.
        """
        if self.is_unfinished():
            raise RunError(
                f"A new run needs a new or empty folder, but {str(self.folder)!r} holds a run "
                "that has not finished. Go on with it (foveate train --resume "
                f"{shlex.quote(str(self.folder))}), or choose another with --out."
            )
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise RunError(
                f"A new run needs a new or empty folder, but {str(self.folder)!r} holds "
                f"{'a run' if self.config_path.exists() else 'files'} already. "
                "Choose another with --out, or delete it."
            )

    def is_unfinished(self) -> bool:
        """Whether there is a run that was begun and neither finished nor is a mere folder."""
        if not self.config_path.is_file() or not self.status_path.is_file():
            return False
        return self.status()["state"] != "finished"

    def lacks_report(self) -> bool:
        """Whether the run was trained to its end, but stopped before its report was written."""
        return self.status()["state"] == "finished" and not self.report_path.exists()

    def require_resumable(self) -> None:
        """Check that one may go on with the run.

        Raises:
            RunError: It has finished, or another process is training it.
        """
        status = self.status()
        if status["state"] == "finished":
            raise RunError(
                f"The run {str(self.folder)!r} has finished; there is nothing to go on."
            )
        if (pid := self.trained_by()) is not None:
            raise RunError(
                f"Process {pid} is training the run {str(self.folder)!r} right now. "
                "Wait for it, or stop it first."
            )

    def trained_by(self) -> int | None:
        """Number of the other process of this machine that is training the run, if one does."""
        status = self.status()
        pid: int | None = status.get("pid")
        is_busy = status["state"] in ("running", "restarting") and not self.is_handed_over()
        return pid if is_busy and self._is_alive(pid) else None

    def is_handed_over(self) -> bool:
        """Whether the process that trained the run has become this one, or waits for it."""
        status = self.status()
        return status["state"] == "restarting" and status["pid"] in (os.getpid(), os.getppid())

    def _is_alive(self, pid: int | None) -> bool:
        """Whether the process that wrote the status runs; its number may belong to another now."""
        if pid is None or pid == os.getpid():
            return False
        try:
            return psutil.Process(pid).create_time() <= self.status_path.stat().st_mtime
        except psutil.Error:
            return False

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Find a run that was started before.

        Args:
            folder: A run folder.

        Returns:
            The run.

        Raises:
            RunError: There is no run in the folder.
        """
        run = cls(folder)
        if not run.config_path.is_file():
            raise RunError(
                f"A run folder holds config.toml, but {str(run.folder)!r} "
                f"{'does not' if run.folder.is_dir() else 'is not a folder'}. "
                "Give the folder that `foveate train` printed."
            )
        return run

    @property
    def config_path(self) -> Path:
        """The settings of the run."""
        return self.folder / "config.toml"

    @property
    def status_path(self) -> Path:
        """Where the run stands, as JSON."""
        return self.folder / "status.json"

    @property
    def plan_path(self) -> Path:
        """What was planned for a stated budget, and why, as JSON."""
        return self.folder / "plan.json"

    @property
    def manifest_path(self) -> Path:
        """The table of samples with their splits."""
        return self.folder / "manifest.parquet"

    @property
    def history_path(self) -> Path:
        """One line of JSON an epoch."""
        return self.folder / "history.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of weights while the run goes on."""
        return self.folder / "checkpoints"

    @property
    def best_weights(self) -> Path:
        """Weights of the best epoch so far."""
        return self.checkpoints / "best.npz"

    @property
    def model_folder(self) -> Path:
        """The trained model and all it needs to take a raw file."""
        return self.folder / "model"

    @property
    def unreadable_path(self) -> Path:
        """The files that could not be read, as JSON."""
        return self.folder / "unreadable.json"

    @property
    def report_path(self) -> Path:
        """The report, one offline HTML file."""
        return self.folder / "report.html"

    def evaluation_path(self, split: str) -> Path:
        """Where the scores of a split are, as JSON."""
        return self.folder / "evaluation" / f"{split}.json"

    def mistakes_folder(self, split: str) -> Path:
        """Where pictures of the worst predictions of a split are."""
        return self.folder / "evaluation" / f"{split}_mistakes"

    def predictions_path(self, split: str) -> Path:
        """Where the predictions on a split are, as Parquet."""
        return self.folder / "predictions" / f"{split}.parquet"

    def config(self) -> RunConfig:
        """Read the settings the run was made with."""
        return load_config(self.config_path)

    def set_status(self, state: str, **details: Any) -> None:
        """Record where the run stands.

        Args:
            state: ``running``, ``finished``, ``interrupted`` or ``failed``; ``restarting`` while
                one process hands it over to the next.
            details: More to keep, JSON values; they replace those of the last call.
        """
        self.save_json(self.status_path, {"state": state, **details})

    def status(self) -> dict[str, Any]:
        """Read where the run stands; ``{"state": ...}`` and details."""
        return self.load_json(self.status_path)

    @property
    def backend(self) -> str:
        """Keras backend to go on with: the one it runs on, or what its settings say."""
        return str(self.status().get("backend") or self.config().runtime.backend)

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add one epoch's record; the file is replaced whole, so it never ends in half a line.

        Args:
            record: JSON values: stage, epoch and the metrics Keras reports.
        """
        old = self.history_path.read_text(encoding="utf-8") if self.history_path.exists() else ""
        write_atomically(self.history_path, f"{old}{json.dumps(_finite(record))}\n")

    def cut_history(self, num_epochs: int) -> None:
        """Forget all but the first epochs: those after a checkpoint come again."""
        lines = [json.dumps(record) for record in self.history()[:num_epochs]]
        write_atomically(self.history_path, "".join(f"{line}\n" for line in lines))

    def history(self) -> list[dict[str, Any]]:
        """Read the records of all finished epochs, oldest first."""
        if not self.history_path.exists():
            return []
        return [
            json.loads(line) for line in self.history_path.read_text(encoding="utf-8").splitlines()
        ]

    def add_unreadable(self, split: str, reasons: Mapping[str, str]) -> list[str]:
        """List files that could not be read.

        Args:
            split: Where they belong.
            reasons: Path of each image, and why it or its mask cannot be used.

        Returns:
            Those paths that were not listed before.
        """
        known = self.unreadable()
        new = {path: reasons[path] for path in sorted(reasons) if path not in known.get(split, {})}
        if new:
            known[split] = {**known.get(split, {}), **new}
            self.save_json(self.unreadable_path, known)
        return list(new)

    def unreadable(self) -> dict[str, dict[str, str]]:
        """Read the files that were left out: reason by path by split."""
        return self.load_json(self.unreadable_path) if self.unreadable_path.exists() else {}

    def save_json(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run; NaN becomes null."""
        write_atomically(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")

    def load_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            RunError: It is missing or damaged.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"The run {str(self.folder)!r} has no {path.name} yet.") from None
        except ValueError as error:
            raise RunError(f"{path} must be JSON, but got: {error}.") from None
        return content

    def forget_judgements(self) -> None:
        """Delete scores, predictions and report: the model that they speak of is trained on."""
        for folder in (self.evaluation_path("test").parent, self.predictions_path("test").parent):
            shutil.rmtree(folder, ignore_errors=True)
        self.report_path.unlink(missing_ok=True)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only process that trains the run, until the end of the context or the process.

        The status names the process only once its model is built, which may take minutes.

        Raises:
            RunError: Another one does.
        """
        with (self.folder / ".lock").open("w") as file:
            if not is_locked(file):
                raise RunError(
                    f"Another process is training the run {str(self.folder)!r} right now. "
                    "Wait for it, or stop it first."
                )
            yield

    def discard(self) -> None:
        """Delete the run folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value
