"""What the machine does with a run: tried out in a process of its own, and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from foveate import machine
from foveate.config.files import to_toml
from foveate.config.settings import RunConfig
from foveate.data.listings import cache_folder
from foveate.data.manifest import Manifest
from foveate.disk import write_atomically
from foveate.errors import BudgetError, FoveateError, RunError
from foveate.planning.measurement import (
    LESS_UNFROZEN,
    LOADING_LIMITS,
    WAYS,
    Measurement,
    Try,
    levels,
    step_seconds,
)
from foveate.planning.reckon import epochs_in
from foveate.planning.sizes import batch_sizes, next_size
from foveate.planning.stamps import accelerators, file_sizes, module_stamp

# The rooms below this one are named, not imported: they run in another process. What a run imports
# when its training is over is left out: with it, the end took 1 % more than training at its peak.
_CHILD = """
import sys
from pathlib import Path
from foveate import machine
from foveate.scale import runtime
from foveate.errors import FoveateError
try:
    if int(sys.argv[3]):
        machine.limit_cpus(int(sys.argv[3]))
    runtime.own_process()
    runtime.prepare(sys.argv[2])
    from foveate.training.trial import try_out
    try_out(Path(sys.argv[1]))
except FoveateError as error:
    (Path(sys.argv[1]) / "mistake").write_text(f"{type(error).__name__} {error}", "utf-8")
"""
_SHARE_OF_TIME = 0.15  # of a stated time, after which no further batch size is tried
_MOST_OF_TIME = 0.5  # after which not even a second one is
_SECONDS = 300.0  # the same where no time is stated
_LONGEST = 900.0  # that a trial may last: where memory is refused, TensorFlow may wait for ever
_LOOK_SECONDS = 0.5
_FEW_EPOCHS = 5  # in the time of so many, fewer layers learnt as much or more
_THREADS_OF_ONE = 4  # that a process has, where there are several
_DISTRIBUTIONS = ("foveate", "keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy")


def measure(manifest: Manifest, config: RunConfig, limit: int, share: float = 1.0) -> Measurement:
    """Try out a run at a few batch sizes, unless the same was measured before.

    Args:
        manifest: The data.
        config: The settings; the figures of `budget` but for `cpus`, and what only decides how
            long a run takes, change nothing.
        limit: Bytes of memory that the trial should not exceed, as far as can be told.
        share: Part of the time that trials may take which this one gets.

    Returns:
        What was measured, now or at an earlier time.

    Raises:
        FoveateError: What the settings or the data do wrong, as `foveate train` would say it.
        RunError: The trial failed.
    """
    sizes = batch_sizes(config)
    remembered = cache_folder() / "measured" / f"{_key(manifest, config, sizes, share)}.json"
    try:
        known = Measurement.from_dict(json.loads(remembered.read_text()))
        if known.limit >= limit or _holds_at(limit, known, sizes):
            return known
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there, or of another version
    measured = _try_out(manifest, config, sizes, limit, share)
    with contextlib.suppress(OSError):  # a home that cannot be written to only costs time
        write_atomically(remembered, json.dumps(asdict(measured)))
    return measured


def _holds_at(limit: int, known: Measurement, sizes: list[int]) -> bool:
    """Say whether a trial that may take more memory would find nothing new.

    So it is where the largest size is known, or the same sizes would be tried again.
    """
    if known.too_large is not None:
        sizes = [size for size in sizes if size < known.too_large]
    tried = [one.batch_size for one in known.tries]
    if tried[-1] == sizes[-1]:
        return True
    for count in range(1, len(tried) + 1):
        size = next_size(sizes, *levels(known.tries[:count]), known.base_bytes, limit)
        if size != (tried[count] if count < len(tried) else None):
            return False
    return True


def _key(manifest: Manifest, config: RunConfig, sizes: list[int], share: float) -> str:
    """Everything that the measured figures depend on, as a name."""
    settings = config.model_dump(mode="json")
    for section, names in {
        "budget": ("ram", "gpu_memory"),
        "recipe": ("learning_rate", "fine_tune_learning_rate", "stopping"),
    }.items():
        for name in names:
            settings[section].pop(name, None)
    settings.pop("checkpoint")
    settings["recipe"]["schedule"] = config.recipe.schedule.name  # one goes with one image size
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    about = [
        manifest.digest(), settings, sizes, share, versions,
        platform.machine(), platform.processor(),
        machine.cpu_count(), machine.memory_bytes(), accelerators(), file_sizes(manifest),
        module_stamp(config.model.backbone),
        config.budget.ram is None,  # what steps do with their memory
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _try_out(
    manifest: Manifest, config: RunConfig, sizes: list[int], limit: int, share: float
) -> Measurement:
    """Try sizes one after the other, each in a fresh process: a backend keeps what it took."""
    begun, stated_time = time.monotonic(), config.budget.time
    end = begun + share * (_SHARE_OF_TIME * stated_time if stated_time else _SECONDS)
    # With one size alone nothing is known of any larger one.
    latest = begun + share * _MOST_OF_TIME * stated_time if stated_time else end
    stated = config.recipe.precision
    usual = {
        "precision": "float32" if stated == "auto" else stated,
        "unfreeze": config.recipe.tuned_share,
        "processes": config.loader.processes,
    }
    with tempfile.TemporaryDirectory(prefix="foveate-trial-") as name:
        folder = Path(name)
        manifest.save(folder / "manifest.parquet")
        (folder / "config.toml").write_text(to_toml(config), "utf-8")
        about, first = _ask(folder, config, sizes[0], **usual)
        bfloat16 = about.pop("has_bfloat16") and stated == "auto"
        tries, base, too_large = [first], about["base_bytes"], None
        while (size := next_size(sizes, *levels(tries), base, limit)) is not None:
            if time.monotonic() > (end if len(tries) > 1 else latest):
                break
            try:
                tries.append(_ask(folder, config, size, **usual)[1])
            except RunError:  # of an accelerator's memory nothing is known before
                too_large = size
                sizes = [smaller for smaller in sizes if smaller < size]
        values = {**about, "tries": map(asdict, tries), "limit": limit, "too_large": too_large}
        found = Measurement.from_dict(values)
        return replace(found, others=_try_others(folder, config, found, bfloat16, end))


def _try_others(
    folder: Path, config: RunConfig, measured: Measurement, bfloat16: bool, end: float
) -> list[Try]:
    """Try what may be faster, each thing beside the fastest before it, with the largest batch."""
    tried = [measured.tries[-1]]

    def try_with(**changes: Any) -> None:
        fastest = min(tried, key=step_seconds)
        ways = {name: getattr(fastest, name) for name in WAYS}
        if time.monotonic() <= end:
            with contextlib.suppress(RunError, BudgetError):  # processes have caches
                about, one = _ask(folder, config, fastest.batch_size, **{**ways, **changes})
                if about["frozen_views"] == measured.frozen_views:
                    tried.append(one)

    if bfloat16:
        try_with(precision="mixed_bfloat16")
    if _is_short(config, measured):
        try_with(unfreeze=LESS_UNFROZEN)
    if processes := _worth_trying(config, min(tried, key=step_seconds)):
        try_with(processes=processes)
    return tried[1:]


def _is_short(config: RunConfig, measured: Measurement) -> bool:
    """Say whether a stated time has room for but a few epochs of fine-tuning all layers."""
    (name, count), seconds = measured.stages[-1], config.budget.time
    if config.recipe.unfreeze is not None or name != "fine_tune" or count or seconds is None:
        return False
    largest = measured.tries[-1].batch_size
    return epochs_in(seconds, measured, largest) < _FEW_EPOCHS


def _worth_trying(config: RunConfig, tried: Try) -> int:
    """Say how many processes might load faster than threads alone; 0 where none would.

    Threads wait for each other where they run Python, which few processors do not feel.
    """
    is_open = config.loader.processes is None and config.data.unreadable == "fail"
    waits = max(tried.wait_shares.values()) > LOADING_LIMITS
    if not is_open or not waits or config.data.tiles.size is not None:
        return 0
    processes = machine.cpu_count() // _THREADS_OF_ONE
    return processes if processes > 1 else 0


def _ask(
    folder: Path, config: RunConfig, batch_size: int, **ways: Any
) -> tuple[dict[str, Any], Try]:
    """Have one batch size tried: what is to know of data and model, and the figures."""
    request = {"batch_size": batch_size, **ways}
    (folder / "request.json").write_text(json.dumps(request))
    answer, mistake = folder / "answer.json", folder / "mistake"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-c", _CHILD, str(folder), config.runtime.backend]
    command.append(str(config.budget.cpus or 0))
    problem = _carried_out(command, folder / "prepared.pickle")
    if mistake.exists():
        raise _mistake(mistake.read_text("utf-8"))
    if not answer.exists():
        raise RunError(
            f"A trial of the run with batches of {batch_size} must give its memory and time, but "
            f"got {problem}."
        )
    found = json.loads(answer.read_text())
    return found["about"], Try(**found["try"])


def _carried_out(command: list[str], ready: Path) -> str:
    """Run a trial to its end, or until it takes too long; gives what to say if it was no success.

    Its time begins when the file `ready` is there: to read all masks takes as long as it takes.
    """
    end = math.inf
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    words = child.communicate(timeout=_LOOK_SECONDS)[1].strip()
                    return f"exit code {child.returncode}: {words[-2000:] or 'no words'}"
                if end == math.inf and ready.exists():
                    end = time.monotonic() + _LONGEST
                if time.monotonic() > end:
                    return f"none within {_LONGEST / 60:.0f} minutes"
        finally:
            child.kill()


def _mistake(text: str) -> FoveateError:
    """The error of the other process as one of this."""
    name, _, message = text.partition(" ")
    kinds = {kind.__name__: kind for kind in FoveateError.__subclasses__()}
    return kinds.get(name, FoveateError)(message)
