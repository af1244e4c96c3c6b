"""What the machine does with a run: tried out in a process of its own, and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
from foveate.planning.sizes import batch_sizes, next_size

# The rooms below this one are named, not imported: they run in another process. What a run imports
# when its training is over is left out: with it, the end took 1 % more than training at its peak.
_CHILD = """
import sys
from pathlib import Path
from foveate import machine
from foveate.scale import runtime
if int(sys.argv[3]):
    machine.limit_cpus(int(sys.argv[3]))
runtime.own_process()
runtime.prepare(sys.argv[2])
from foveate.errors import FoveateError
from foveate.training.trial import try_out
try:
    try_out(Path(sys.argv[1]))
except FoveateError as error:
    (Path(sys.argv[1]) / "mistake").write_text(f"{type(error).__name__} {error}")
"""
_SHARE_OF_TIME = 0.15  # of a stated time, after which no further batch size is tried
_SECONDS = 300.0  # the same where no time is stated
_LONGEST = 900.0  # that a trial may last: where memory is refused, TensorFlow may wait for ever
_DISTRIBUTIONS = ("foveate", "keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy")


@dataclass(frozen=True)
class Try:
    """A training at one batch size.

    Attributes:
        batch_size: Samples of a batch.
        peak_bytes: Highest resident memory of the process.
        steady_bytes: The same after the last batch of training, when compiling is over.
        device_bytes: Highest memory of the accelerator; None without one.
        stage_seconds: Seconds of each timed batch, loading included, by stage.
        wait_shares: Share of the time that was spent waiting for data, by stage.
        validation_seconds: Seconds that judging a sample takes.
        forward_seconds: Seconds that computing the features of a sample takes; 0 where none are.
        compile_seconds: Seconds that a run takes to compile, all stages and the judging together.
        size_seconds: Seconds that another image size takes to build and to compile.
        precision: Arithmetic of the layers.
    """

    batch_size: int
    peak_bytes: int
    steady_bytes: int
    device_bytes: int | None
    stage_seconds: dict[str, list[float]]
    wait_shares: dict[str, float]
    validation_seconds: float
    forward_seconds: float = 0.0
    compile_seconds: float = 0.0
    size_seconds: float = 0.0
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
        others: At a batch size of these, in another precision.
        limit: Bytes of memory at which larger batches were not tried any more.
        too_large: Batch size whose trial failed; None where all went well.
        frozen_views: Views of each training image whose features are computed once.
        feature_bytes: Size of these features.
        image_sizes: How many image sizes the last stage may go through: as stated, or at most.
        too_large_images: (height, width) in pixels that are usual here, but do not fit.
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
    too_large: int | None = None
    frozen_views: int = 0
    feature_bytes: int = 0
    image_sizes: int = 1
    others: list[Try] = field(default_factory=list)
    too_large_images: tuple[int, int] | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measurement:
        """Make one from what `dataclasses.asdict` gave, perhaps through JSON."""
        tries = [Try(**values_of_one) for values_of_one in values["tries"]]
        others = [Try(**values_of_one) for values_of_one in values.get("others", [])]
        size, stages = tuple(values["image_size"]), [tuple(stage) for stage in values["stages"]]
        values = {**values, "tries": tries, "others": others}
        return cls(**{**values, "image_size": size, "stages": stages})


def measure(manifest: Manifest, config: RunConfig, limit: int, share: float = 1.0) -> Measurement:
    """Try out a run at a few batch sizes, unless the same was measured before.

    Args:
        manifest: The data.
        config: The settings; `budget` but for `cpus`, and what only decides how long a run
            takes, change nothing.
        limit: Bytes of memory that the trial should not exceed, as far as can be told.
        share: Part of the time that trials may take which this one gets.

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
        if known.limit >= limit or _holds_at(limit, known, sizes):
            return known
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there, or of another version
    measured = _try_out(manifest, config, sizes, limit, share)
    remembered.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(remembered, json.dumps(asdict(measured)))
    return measured


def _holds_at(limit: int, known: Measurement, sizes: list[int]) -> bool:
    """Say whether a trial that may take more memory would find nothing new.

    So it is where the largest size is known, or the same sizes would be tried again.
    """
    tried = [one.batch_size for one in known.tries]
    if tried[-1] == sizes[-1]:
        return True
    for count in range(1, len(tried) + 1):
        size = next_size(sizes, *levels(known.tries[:count]), known.base_bytes, limit)
        if size != (tried[count] if count < len(tried) else None):
            return False
    return True


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


def _try_out(
    manifest: Manifest, config: RunConfig, sizes: list[int], limit: int, share: float
) -> Measurement:
    """Try sizes one after the other, each in a fresh process: a backend keeps what it took."""
    allowed = _SHARE_OF_TIME * config.budget.time if config.budget.time else _SECONDS
    end = time.monotonic() + share * allowed
    stated = config.recipe.precision
    precision = "float32" if stated == "auto" else stated
    with tempfile.TemporaryDirectory(prefix="foveate-trial-") as name:
        folder = Path(name)
        manifest.save(folder / "manifest.parquet")
        (folder / "config.toml").write_text(to_toml(config))
        about, first = _ask(folder, config, sizes[0], precision)
        bfloat16 = about.pop("has_bfloat16") and stated == "auto"
        tries, others, base, too_large = [first], [], about["base_bytes"], None
        while (size := next_size(sizes, *levels(tries), base, limit)) is not None:
            if time.monotonic() > end:
                break
            try:
                tries.append(_ask(folder, config, size, precision)[1])
            except RunError:  # what is known of the smaller ones holds
                too_large = size
                break
        if bfloat16 and time.monotonic() <= end:
            with contextlib.suppress(RunError):
                size = tries[-1].batch_size  # how much faster it is depends on it
                others.append(_ask(folder, config, size, "mixed_bfloat16")[1])
    found = {"tries": map(asdict, tries), "others": map(asdict, others), "limit": limit}
    return Measurement.from_dict({**about, **found, "too_large": too_large})


def _ask(
    folder: Path, config: RunConfig, batch_size: int, precision: str
) -> tuple[dict[str, Any], Try]:
    """Have one batch size tried: what is to know of data and model, and the figures."""
    (folder / "request.json").write_text(
        json.dumps({"batch_size": batch_size, "precision": precision})
    )
    answer, mistake = folder / "answer.json", folder / "mistake"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-c", _CHILD, str(folder), config.runtime.backend]
    command.append(str(config.budget.cpus or 0))
    try:
        outcome = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LONGEST
        )
        problem = f"exit code {outcome.returncode}: {outcome.stderr.strip()[-2000:] or 'no words'}"
    except subprocess.TimeoutExpired:
        problem = f"none within {_LONGEST / 60:.0f} minutes"
    if mistake.exists():
        raise _mistake(mistake.read_text())
    if not answer.exists():
        raise RunError(
            f"A trial of the run with batches of {batch_size} must give its memory and time, but "
            f"got {problem}."
        )
    found = json.loads(answer.read_text())
    return found["about"], Try(**found["try"])


def levels(tries: Sequence[Try]) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes by batch size: at the peak, and when training is steady."""
    peaks = {one.batch_size: one.peak_bytes for one in tries}
    return peaks, {one.batch_size: one.steady_bytes for one in tries}


def _mistake(text: str) -> FoveateError:
    """The error of the other process as one of this."""
    name, _, message = text.partition(" ")
    kinds = {kind.__name__: kind for kind in FoveateError.__subclasses__()}
    return kinds.get(name, FoveateError)(message)
