"""Runs that are killed go on to the very same weights."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import keras
import numpy as np
import pytest
from rich.console import Console

import foveate
from foveate.config.files import to_toml
from foveate.config.settings import CheckpointConfig
from foveate.errors import RunError
from foveate.evaluation.predict import Predictor
from foveate.runs import Run
from foveate.training import recipe
from foveate.training.best import BestEpoch
from foveate.training.callbacks import LearningRate
from foveate.training.recipe import resume, train

Config = Callable[..., Any]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


@pytest.fixture(scope="module")
def config(digit_run: Run, tiny_config: Config) -> Any:
    """Two stages of six batches an epoch, with everything that draws random numbers."""
    return tiny_config(
        model__weights=next(digit_run.model_folder.glob("*.keras")),
        recipe__epochs=2,
        recipe__fine_tune_epochs=2,
        recipe__stopping__patience=2,
        augment__preset="strong",
        augment__mix__mixup=0.2,
        data__batch_size=20,
        checkpoint__every_steps=2,
    )


@pytest.fixture(scope="module")
def unbroken(config: Any, digit_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(digit_folders, config, tmp_path_factory.mktemp("runs") / "unbroken")


def weights(run: Run) -> list[np.ndarray]:
    return list(Predictor.load(run.model_folder).bundle.model.get_weights())


def assert_same(run: Run, unbroken: Run) -> None:
    assert run.status()["state"] == "finished"
    for mine, theirs in zip(weights(run), weights(unbroken), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for epoch, same in zip(run.history(), unbroken.history(), strict=True):
        assert timeless(epoch) == timeless(same)


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.endswith("seconds")}


def on_call(number: int, function: Any, error: type[BaseException] = Killed) -> Any:
    """Let a function raise on its nth call, before it does anything."""
    calls = iter(range(1, 10**6))

    def raising(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise error
        return function(*args, **kwargs)

    return raising


@contextmanager
def killed_at(batch: int) -> Iterator[None]:
    """Expect death at the beginning of a batch, counted from 1."""
    with pytest.MonkeyPatch.context() as patch:
        step = on_call(batch, LearningRate.on_train_batch_begin)
        patch.setattr(LearningRate, "on_train_batch_begin", step)
        with pytest.raises(Killed):
            yield


# What is patched, and on which call it dies. A stage has 2 epochs of 6 batches.
MOMENTS = {
    "in validation": (keras.Model, "evaluate", 2),
    "in a checkpoint": (np.lib.format, "write_array", 100),
    "before a file is renamed": (os, "fsync", 15),
    "between stages": (BestEpoch, "start_stage", 2),
    "after the last stage": (recipe, "save_bundle", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(
    moment: str, config: Any, unbroken: Run, digit_folders: Path, tmp_path: Path
) -> None:
    holder, name, call = MOMENTS[moment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, name, on_call(call, getattr(holder, name)))
        with pytest.raises(Killed):
            train(digit_folders, config, tmp_path / "run")
    assert_same(resume(tmp_path / "run"), unbroken)


# As above; an image size has 2 epochs of 6 batches.
MOMENTS_OF_SIZES = {
    "on small images": (LearningRate, "on_train_batch_begin", 10),
    "between sizes": (BestEpoch, "start_stage", 2),
    "on full images": (LearningRate, "on_train_batch_begin", 22),
}


@pytest.fixture(scope="module")
def resized_run(
    resized: Config, digit_folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return train(digit_folders, resized(), tmp_path_factory.mktemp("runs") / "resized")


@pytest.mark.parametrize("moment", MOMENTS_OF_SIZES)
def test_killed_at_any_size(
    moment: str, resized: Config, resized_run: Run, digit_folders: Path, tmp_path: Path
) -> None:
    holder, name, call = MOMENTS_OF_SIZES[moment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, name, on_call(call, getattr(holder, name)))
        with pytest.raises(Killed):
            train(digit_folders, resized(), tmp_path / "run")
    assert_same(resume(tmp_path / "run"), resized_run)


def test_killed_when_a_better_epoch_is_later_than_the_last_checkpoint(
    config: Any, unbroken: Run, digit_folders: Path, tmp_path: Path
) -> None:
    seldom = config.model_copy(update={"checkpoint": CheckpointConfig()})
    with killed_at(3 * 6 + 2):
        train(digit_folders, seldom, tmp_path / "run")
    losses = [epoch["val_loss"] for epoch in unbroken.history()]
    assert losses[2] < min(losses[:2]), "else the weights that fine-tuning began with are there"
    assert_same(resume(tmp_path / "run"), unbroken)


def test_killed_again_and_again(
    config: Any, unbroken: Run, digit_folders: Path, tmp_path: Path
) -> None:
    def begin() -> Run:
        return train(digit_folders, config, tmp_path / "run")

    attempt = begin
    for call in (3, 8, 7):
        with killed_at(call):
            attempt()
        attempt = lambda: resume(tmp_path / "run")  # noqa: E731
    assert_same(foveate.resume(tmp_path / "run", progress=False), unbroken)


def test_plateau_and_patience_survive(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """With a rate too small to learn, waiting in vain drops the rate and ends the run early."""
    config = tiny_config(
        recipe__epochs=9,
        recipe__learning_rate=1e-9,
        recipe__schedule="plateau",
        recipe__schedule__patience=2,
        recipe__stopping__patience=4,
        recipe__stopping__monitor="val_accuracy",
        checkpoint__every_steps=4,
    )
    whole = train(digit_folders, config, tmp_path / "whole")
    with killed_at(3 * 7 + 3):  # in the fourth epoch
        train(digit_folders, config, tmp_path / "run")
    run = resume(tmp_path / "run")
    assert len(run.history()) < 9
    assert len({record["learning_rate"] for record in run.history()}) > 1
    assert_same(run, whole)


def test_a_full_disk_leaves_the_last_checkpoint(
    config: Any, unbroken: Run, digit_folders: Path, tmp_path: Path
) -> None:
    files = iter(range(10))

    class ThirdIsTooMuch(ZipFile):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.number = next(files)

        def open(self, *args: Any, **kwargs: Any) -> Any:
            if self.number == 2 and len(self.namelist()) == 3:
                raise OSError(28, os.strerror(28))
            return super().open(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveate.training.checkpoint.ZipFile", ThirdIsTooMuch)
        with pytest.raises(RunError, match="must fit on the disk"):
            train(digit_folders, config, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.status()["state"] == "failed"
    assert len(list(run.checkpoints.glob("checkpoint-*.npz"))) == 2
    assert not list(run.checkpoints.glob(".part*"))
    assert_same(resume(tmp_path / "run"), unbroken)


def test_finished_runs_need_no_checkpoints(unbroken: Run) -> None:
    assert not list(unbroken.checkpoints.glob("checkpoint-*.npz"))
    with pytest.raises(RunError, match="has finished"):
        resume(unbroken.folder)


def test_a_run_without_a_checkpoint_says_so(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    with killed_at(2):
        train(digit_folders, tiny_config(), tmp_path / "run")
    with pytest.raises(RunError, match="stopped before its first"):
        resume(tmp_path / "run")
    with pytest.raises(RunError, match="--resume"):
        train(digit_folders, tiny_config(), tmp_path / "run")


def test_the_first_epoch_is_not_lost(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """However seldom a run is stored, what one epoch has learned can be gone on with."""
    config = tiny_config(checkpoint__every="10h")
    with killed_at(7 + 2):  # in the second epoch
        train(digit_folders, config, tmp_path / "run")
    assert len(Run(tmp_path / "run").history()) == 1
    run = resume(tmp_path / "run")
    assert run.status()["state"] == "finished"
    assert len(run.history()) == 3


def test_only_one_process_goes_on_with_a_run(tmp_path: Path, config: Any) -> None:
    """Also in the seconds before either has said that it does."""
    run = Run.create(tmp_path / "run", config)
    with run.claimed(), pytest.raises(RunError, match="Another process is training"):
        resume(run.folder)
    with pytest.raises(RunError, match="stopped before its first"):
        resume(run.folder)


def test_what_was_judged_before_is_forgotten(
    config: Any, digit_folders: Path, tmp_path: Path
) -> None:
    """Scores of weights that were trained further are none of the final model."""
    with killed_at(8):
        train(digit_folders, config, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.save_json(run.evaluation_path("validation"), {"scores": {}})
    run.report_path.write_text("old")
    resume(run.folder)
    assert not run.evaluation_path("validation").exists()
    assert run.lacks_report()


def test_killed_before_its_first_batch(tmp_path: Path, config: Any) -> None:
    """The folder is there, and says nothing yet of who trains it."""
    run = Run.create(tmp_path / "run", config)
    with pytest.raises(RunError, match="stopped before its first"):
        foveate.resume(run, progress=False)


def test_a_run_that_is_alive_is_left_alone(tmp_path: Path, config: Any) -> None:
    run = Run.create(tmp_path / "run", config)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(0.1)  # the clock of processes ticks in hundredths
        run.set_status("running", pid=sleeper.pid, backend="tensorflow")
        with pytest.raises(RunError, match=f"Process {sleeper.pid} is training"):
            resume(run.folder)
    finally:
        sleeper.kill()
        sleeper.wait()
    with pytest.raises(RunError, match="checkpoint"):
        resume(run.folder)


def test_sigkill_then_ctrl_c_then_the_end(
    config: Any, unbroken: Run, digit_folders: Path, tmp_path: Path
) -> None:
    """Real processes: one is killed, one is interrupted, one finishes."""
    settings, out = tmp_path / "run.toml", tmp_path / "run"
    settings.write_text(to_toml(config))
    command = [sys.executable, "-m", "foveate", "train"]
    start = [*command, str(digit_folders), "--config", str(settings), "--out", str(out)]
    resume_it = [*command, "--resume", str(out)]

    def stop(arguments: list[str], number: int) -> tuple[int, str]:
        before = set(Run(out).checkpoints.glob("checkpoint-*.npz"))
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        while (
            set(Run(out).checkpoints.glob("checkpoint-*.npz")) <= before and process.poll() is None
        ):
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    code, _ = stop(start, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, output = stop(resume_it, signal.SIGINT)
    assert code == 130, output
    assert f"foveate train --resume {out}" in output
    assert "Traceback" not in output
    done = subprocess.run(resume_it, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").is_file()
    assert_same(Run.open(out), unbroken)


def test_starting_again_says_that_one_can_go_on(
    digit_folders: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    console = Console(record=True, width=200, file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "run_stages", on_call(1, recipe.run_stages))
        with pytest.raises(Killed):
            train(digit_folders, tiny_config())
        patch.setattr(recipe, "run_stages", on_call(1, recipe.run_stages))
        with pytest.raises(Killed):
            train(digit_folders, tiny_config(), console=console)
    assert "foveate train --resume runs/digits-1" in console.export_text()
    assert (tmp_path / "runs" / "digits-2").is_dir()
