"""What the machine does with a run: tried out in a process of its own, and remembered."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foveate import machine
from foveate.config.files import to_toml
from foveate.config.recipe import Precision
from foveate.config.settings import Backend, RunConfig
from foveate.data.listings import cache_folder
from foveate.data.manifest import Manifest
from foveate.disk import write_atomically
from foveate.errors import FoveateError, RunError

# The rooms below this one are named, not imported: they run in another process. It imports all
# that a run does before it ends, so that the memory it starts from is that of a run.
_CHILD = """
import sys
from pathlib import Path
from foveate import machine
from foveate.scale import runtime
if int(sys.argv[3]):
    machine.limit_cpus(int(sys.argv[3]))
runtime.prepare(sys.argv[2])
import foveate.evaluation.scores, foveate.report.report
from foveate.errors import FoveateError
from foveate.training.trial import try_out
try:
    try_out(Path(sys.argv[1]))
except FoveateError as error:
    (Path(sys.argv[1]) / "mistake").write_text(f"{type(error).__name__} {error}")
"""
_SHARE_OF_TIME = 0.15  # of a stated time, after which no further batch size is tried
_SECONDS = 300.0  # the same where no time is stated
_DISTRIBUTIONS = ("foveate", "keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy")


@dataclass(frozen=True)
class Try:
    """A training at one batch size.

    Attributes:
        batch_size: Samples of a batch.
        peak_bytes: Highest resident memory of the process.
        device_bytes: Highest memory of the accelerator; None without one.
        stage_seconds: Seconds of each timed batch, loading included, by stage.
        wait_shares: Share of the time that was spent waiting for data, by stage.
        validation_seconds: Seconds that judging a sample takes.
        forward_seconds: Seconds that computing the features of a sample takes; 0 where none are.
        precision: Arithmetic of the layers.
    """

    batch_size: int
    peak_bytes: int
    device_bytes: int | None
    stage_seconds: dict[str, list[float]]
    wait_shares: dict[str, float]
    validation_seconds: float
    forward_seconds: float = 0.0
    precision: Precision = "float32"


@dataclass(frozen=True)
class Measurement:
    """What a run does on this machine.

    Attributes:
        backend: The Keras backend that was measured.
        devices: What it computed on.
        image_size: (height, width) the model sees, in pixels.
        stages: Name and number of epochs of each stage; None where the time decides.
        base_bytes: Resident memory before the first batch.
        startup_seconds: From the start of the process to the first batch.
        rows: Samples by split.
        weight_bytes: Size of the model's weights.
        tries: In ascending order of batch size, at least one.
        others: At a batch size of these, in another precision; in the process of the others, so
            that only their times count.
        limit: Bytes of memory at which larger batches were not tried any more.
        frozen_views: Views of each training image whose features are computed once.
        feature_bytes: Size of these features.
    """

    backend: Backend
    devices: list[str]
    image_size: tuple[int, int]
    stages: list[tuple[str, int | None]]
    base_bytes: int
    startup_seconds: float
    rows: dict[str, int]
    weight_bytes: int
    tries: list[Try]
    limit: int
    frozen_views: int = 0
    feature_bytes: int = 0
    others: list[Try] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measurement:
        """Make one from what `dataclasses.asdict` gave, perhaps through JSON."""
        tries = [Try(**values_of_one) for values_of_one in values["tries"]]
        others = [Try(**values_of_one) for values_of_one in values.get("others", [])]
        size, stages = tuple(values["image_size"]), [tuple(stage) for stage in values["stages"]]
        values = {**values, "tries": tries, "others": others}
        return cls(**{**values, "image_size": size, "stages": stages})


def measure(manifest: Manifest, config: RunConfig, limit: int) -> Measurement:
    """Try out a run at a few batch sizes, unless the same was measured before.

    Args:
        manifest: The data.
        config: The settings; `budget` but for `cpus`, and what only decides how long a run
            takes, change nothing.
        limit: Bytes of memory that the trial should not exceed, as far as can be told.

    Returns:
        What was measured, now or at an earlier time.

    Raises:
        FoveateError: What the settings or the data do wrong, as `foveate train` would say it.
        RunError: The trial failed.
    """
    sizes = batch_sizes(config)
    remembered = cache_folder() / "measured" / f"{_key(manifest, config, sizes)}.json"
    try:
        known = Measurement.from_dict(json.loads(remembered.read_text()))
        if known.tries[-1].batch_size == sizes[-1] or known.limit >= limit:
            return known
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there, or of another version
    measured = _try_out(manifest, config, sizes, limit)
    remembered.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(remembered, json.dumps(asdict(measured)))
    return measured


def batch_sizes(config: RunConfig) -> list[int]:
    """Batch sizes that may be taken: the one that is stated, or all that make a whole step."""
    if config.data.batch_size or config.recipe.gradient_accumulation_steps:
        return [config.batch_size]
    whole = config.effective_batch_size
    return [size for size in range(1, whole + 1) if whole % size == 0]


def _key(manifest: Manifest, config: RunConfig, sizes: list[int]) -> str:
    """Everything that the measured figures depend on, as a name."""
    settings = config.model_dump(mode="json")
    for section, names in {
        "budget": ("ram", "gpu_memory"),
        "recipe": ("learning_rate", "fine_tune_learning_rate", "schedule", "stopping"),
    }.items():
        for name in names:
            settings[section].pop(name, None)
    settings.pop("checkpoint")
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    about = [
        manifest.digest(), settings, sizes, versions, platform.machine(), platform.processor(),
        machine.cpu_count(), machine.memory_bytes(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _try_out(manifest: Manifest, config: RunConfig, sizes: list[int], limit: int) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="foveate-trial-") as name:
        folder = Path(name)
        manifest.save(folder / "manifest.parquet")
        (folder / "config.toml").write_text(to_toml(config))
        seconds = _SHARE_OF_TIME * config.budget.time if config.budget.time else _SECONDS
        request = {"batch_sizes": sizes, "limit": limit, "seconds": seconds}
        (folder / "request.json").write_text(json.dumps(request))
        command = [sys.executable, "-c", _CHILD, name, config.runtime.backend]
        command.append(str(config.budget.cpus or 0))
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        mistake = folder / "mistake"
        if mistake.exists():
            raise _mistake(mistake.read_text())
        answers = folder / "answers.jsonl"
        lines = answers.read_text().splitlines() if answers.exists() else []
    if len(lines) < 2:
        raise RunError(
            f"A trial of the run must give its memory and time, but got exit code "
            f"{outcome.returncode}: {outcome.stderr.strip()[-2000:] or 'no message'}."
        )
    about, *tries = map(json.loads, lines)
    others = [one for one in tries if one["precision"] != tries[0]["precision"]]
    tries = [one for one in tries if one not in others]
    return Measurement.from_dict({**about, "tries": tries, "others": others, "limit": limit})


def _mistake(text: str) -> FoveateError:
    """The error of the other process as one of this."""
    name, _, message = text.partition(" ")
    kinds = {kind.__name__: kind for kind in FoveateError.__subclasses__()}
    return kinds.get(name, FoveateError)(message)
