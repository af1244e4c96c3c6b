"""The run folder: the one place that knows its file names; every write to it is atomic."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.config.files import load_config, to_toml
from foveate.config.settings import RunConfig
from foveate.errors import RunError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader or a crash sees the old content or the new, never a part.

    Args:
        path: The file; its folder is made if need be.
        content: Text (stored as UTF-8) or bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def require_space(folder: Path, num_bytes: int) -> None:
    """Check that a file can be written, where a full disk would leave a mess instead of an error.

    Args:
        folder: Where to; it exists.
        num_bytes: How much.

    Raises:
        RunError: Less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise RunError(
            f"Writing to {str(folder)!r} needs {num_bytes / 2**20:.1f} MiB, but got a disk with "
            f"{free / 2**20:.1f} MiB free. Make room, or choose another disk with --out."
        )


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
        write_atomically(run.config_path, to_toml(config))
        run.set_status("running")
        return run

    def require_unused(self) -> None:
        """Check that nothing would be overwritten.

        Raises:
            RunError: The folder holds something already.
        """
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise RunError(
                f"A new run needs a new or empty folder, but {str(self.folder)!r} holds "
                f"{'a run' if self.config_path.exists() else 'files'} already. "
                "Choose another with --out, or delete it."
            )

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
        return self.checkpoints / "best.weights.h5"

    @property
    def model_folder(self) -> Path:
        """The trained model and all it needs to take a raw file."""
        return self.folder / "model"

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
            state: ``running``, ``finished``, ``interrupted`` or ``failed``.
            details: More to keep, JSON values; they replace those of the last call.
        """
        self.save_json(self.folder / "status.json", {"state": state, **details})

    def status(self) -> dict[str, Any]:
        """Read where the run stands; ``{"state": ...}`` and details."""
        return self.load_json(self.folder / "status.json")

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add one epoch's record; the file is replaced whole, so it never ends in half a line.

        Args:
            record: JSON values: stage, epoch and the metrics Keras reports.
        """
        old = self.history_path.read_text(encoding="utf-8") if self.history_path.exists() else ""
        write_atomically(self.history_path, f"{old}{json.dumps(_finite(record))}\n")

    def history(self) -> list[dict[str, Any]]:
        """Read the records of all finished epochs, oldest first."""
        if not self.history_path.exists():
            return []
        return [
            json.loads(line) for line in self.history_path.read_text(encoding="utf-8").splitlines()
        ]

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
