"""Runs that go on in a fresh process where memory runs short."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from foveate.config.files import to_toml
from foveate.errors import BudgetError, RunError
from foveate.planning.guard import NEAR, MemoryGuard
from foveate.runs import Run
from foveate.training.clock import Clock
from foveate.training.pressure import MemoryWatch, TooLargeError
from foveate.training.recipe import resume, train

# A backbone that brings trouble with it: an accelerator on which batches of 8 do not fit, and a
# leak of 50 MiB a batch as long as batches hold more than 2 samples. Each process is noted.
TROUBLE = """
import os
from pathlib import Path

import keras
import numpy as np

from foveate.planning.guard import tree_bytes
from foveate.training import setup
from foveate.training.clock import Clock
from foveate.training.pressure import MemoryWatch, TooLargeError

class ResourceExhaustedError(Exception):
    pass

fit, look, lost = keras.Model.fit, MemoryWatch.on_train_batch_end, []

def fit_few(model, loader, **options):
    if loader.batch_size > 4:
        raise ResourceExhaustedError("OOM when allocating tensor")
    return fit(model, loader, **options)

def lose_and_look(watch, batch, logs=None):
    if watch._loader.batch_size > 2:
        lost.append(np.ones(50 * 1024**2, np.uint8))
    look(watch, batch, logs)

keras.Model.fit, MemoryWatch.on_train_batch_end = fit_few, lose_and_look

def little_memory(config):
    limit = tree_bytes() + 600 * 1024**2
    with Path("processes").open("a") as file:
        file.write(f"{os.getpid()} {limit}\\n")
    return limit

setup.memory_limit = little_memory

def backbone(input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs / 255)
    return keras.Model(inputs, keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x))
"""


def test_the_command_goes_on_in_fresh_processes(
    digit_folders: Path, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "trouble.py").write_text(TROUBLE)
    config = tiny_config(model__backbone="trouble:backbone", data__batch_size=8, recipe__epochs=2)
    (tmp_path / "run.toml").write_text(to_toml(config))
    flags = ["--config", "run.toml", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "foveate", "train", digit_folders, *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "processes").read_text().splitlines()
    pids, limits = zip(*(map(int, line.split()) for line in lines), strict=True)
    assert len(pids) == 3  # for batches of 8, 4 and 2
    assert len(set(pids)) == 1  # whoever waits for the process does not notice
    steps = ["accelerator: batches of 4", "the queue shrinks", "batches of 2", "accuracy"]
    places = [done.stdout.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    run = Run.open(tmp_path / "run")
    assert (run.config().batch_size, run.config().effective_batch_size) == (2, 8)
    assert [line["epoch"] for line in run.history()] == [1, 2]
    assert run.status()["state"] == "finished"
    assert run.report_path.is_file()
    # It was the second process that leaked.
    assert run.status()["peak_memory_bytes"] > NEAR * limits[1]


class Ticking:
    """A clock that is told the time."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_the_time_between_two_processes_counts(
    digit_folders: Path,
    tiny_config: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here the process that goes on is this one, as if it had been replaced."""
    now = Ticking()
    look = MemoryWatch.on_train_batch_end

    def take_a_second(watch: MemoryWatch, batch: int, logs: Any = None) -> None:
        now.seconds += 1.0
        look(watch, batch, logs)

    monkeypatch.setattr(MemoryWatch, "on_train_batch_end", take_a_second)
    # After the third batch the queue shrinks, after the fourth the batches do.
    monkeypatch.setattr(MemoryGuard, "is_near", lambda guard: 3 <= now.seconds < 5)
    config = tiny_config(data__batch_size=8, recipe__epochs=1)
    run = train(digit_folders, config, tmp_path / "run", clock=Clock(now), restarts=True)
    assert run.status()["state"] == "restarting"
    now.seconds += 20.0
    clock = Clock(now)
    now.seconds += 5.0
    run = resume(run.folder, clock=clock, restarts=True)
    assert run.status()["state"] == "finished"
    # Of 15 batches of 8 samples four were done; the others are two each.
    assert run.status()["seconds"] == 4 + 20 + 5 + 2 * 11


def test_what_cannot_be_halved_is_not_restarted(
    digit_folders: Path,
    tiny_config: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemoryGuard, "is_near", lambda guard: True)
    run = train(digit_folders, tiny_config(data__batch_size=2), tmp_path / "run", restarts=True)
    assert (run.status()["state"], run.config().batch_size) == ("restarting", 1)
    with pytest.raises(BudgetError, match="batches of 1, which cannot be halved"):
        resume(run.folder, restarts=True)
    assert run.status()["state"] == "failed"


def test_a_run_is_handed_over_to_none_but_the_next_process(
    tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "run", tiny_config())
    for pid in (os.getpid(), os.getppid()):  # it has become this process, or waits for it
        run.set_status("restarting", pid=pid)
        assert run.is_handed_over()
        run.require_resumable()
    with subprocess.Popen([sys.executable], stdin=subprocess.PIPE) as other:
        time.sleep(0.1)  # the clock of processes ticks in hundredths
        run.set_status("restarting", pid=other.pid)
        assert not run.is_handed_over()
        with pytest.raises(RunError, match=f"Process {other.pid} is training"):
            run.require_resumable()
        other.communicate()
    with pytest.raises(RunError, match="must have a checkpoint"):  # nobody took it over
        resume(run.folder)


def test_ctrl_c_goes_before_a_lack_of_memory() -> None:
    stop = KeyboardInterrupt()
    checkpoints: Any = SimpleNamespace(position=0, stop_with=stop)
    loader: Any = SimpleNamespace(shrink_queue=lambda: False)
    guard: Any = SimpleNamespace(is_near=lambda: True, relieve=lambda: None, limit_bytes=1)
    watch = MemoryWatch(guard, loader, checkpoints, 1, Console(quiet=True))
    watch.on_train_batch_end(0)
    assert checkpoints.stop_with is stop
    checkpoints.stop_with = None
    watch.on_train_batch_end(0)
    assert isinstance(checkpoints.stop_with, TooLargeError)
