"""Runs with a stated time, on a clock that ticks by batches and validations."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from rich.console import Console

from foveate import cli
from foveate.errors import BudgetError
from foveate.evaluation.predict import Predictor
from foveate.runs import Run
from foveate.training.callbacks import LearningRate
from foveate.training.clock import Clock
from foveate.training.recipe import resume, train

Config = Callable[..., Any]
NUM_BATCHES = 7  # of an epoch: 120 training images in batches of 16


class Killed(BaseException):
    """Stands for SIGKILL."""


class Ticking:
    """Time that passes where it is told to: so much a batch, a compilation, a validation."""

    def __init__(self, compiling: float = 5.0) -> None:
        self.seconds = 0.0
        self.compiling = compiling
        self.batches = self.validations = 0
        self.rates: list[float] = []
        self.dies_in_batch = -1

    def __call__(self) -> float:
        return self.seconds

    def tick(self, patch: pytest.MonkeyPatch) -> None:
        rate, evaluate = LearningRate.on_train_batch_begin, keras.Model.evaluate

        def batch(callback: LearningRate, number: int, logs: Any = None) -> None:
            rate(callback, number, logs)
            self.rates.append(float(callback.model.optimizer.learning_rate))
            if self.batches == self.dies_in_batch:
                raise Killed
            is_first = callback._seen == 1
            self.seconds += 1.0 + (self.compiling if is_first else 0.0)
            self.batches += 1

        def validation(*args: Any, **kwargs: Any) -> Any:
            self.seconds += 3.0
            self.validations += 1
            return evaluate(*args, **kwargs)

        patch.setattr(LearningRate, "on_train_batch_begin", batch)
        patch.setattr(keras.Model, "evaluate", validation)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    ticking = Ticking()
    ticking.tick(monkeypatch)
    return ticking


@pytest.fixture(scope="module")
def timed(tiny_config: Config) -> Config:
    """Settings without a number of epochs."""

    def make(seconds: float, **flags: Any) -> Any:
        config = tiny_config(budget__time=seconds, **flags)
        stated = flags.get("recipe__epochs")
        recipe = config.recipe.model_copy(update={"epochs": stated})
        return config.model_copy(update={"recipe": recipe})

    return make


def test_a_run_ends_within_its_time(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path
) -> None:
    """In the middle of an epoch of seven steps of two batches, its validation included."""
    cycle, per_epoch = 2, 14
    config = timed(67, data__batch_size=8, recipe__gradient_accumulation_steps=cycle)
    run = train(digit_folders, config, tmp_path / "run", clock=Clock(time))
    history = run.history()
    assert run.status()["state"] == "finished"
    assert 67 * 0.6 < time.seconds < 67 - 8  # the end of the process has its eight seconds
    assert time.batches % per_epoch, "the last epoch is cut"
    assert time.batches % cycle == 0
    assert len(history) == time.validations == -(-time.batches // per_epoch)
    assert all("val_loss" in record for record in history)
    assert [record.get("ended") for record in history] == [
        *[None] * (len(history) - 1),
        "its time was up",
    ]
    assert time.rates[-1] < 0.05 * config.recipe.learning_rate
    Predictor.load(run.model_folder)


def test_stages_share_the_time(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path, digit_run: Run
) -> None:
    weights = next(digit_run.model_folder.glob("*.keras"))
    config = timed(120, model__weights=weights, recipe__frozen_views=0)
    console = Console(file=io.StringIO(), record=True, width=200)
    run = train(digit_folders, config, tmp_path / "run", console, clock=Clock(time))
    epochs = [record["stage"] for record in run.history()]
    assert 0.2 < epochs.count("frozen") / len(epochs) < 0.45
    assert 120 * 0.7 < time.seconds < 120 - 8
    shown = console.export_text()
    assert "frozen ended: its time was up" in shown
    assert "fine_tune ended: its time was up" in shown
    assert "frozen 1/" not in shown  # of how many epochs is not known


def test_sizes_share_a_stated_time(
    time: Ticking, resized: Config, digit_folders: Path, tmp_path: Path
) -> None:
    """A batch takes a second at any size here, and small images get a fifth of the time."""
    console = Console(file=io.StringIO(), record=True, width=200)
    settings = resized(budget__time=130)
    recipe = settings.recipe.model_copy(update={"epochs": None})
    settings = settings.model_copy(update={"recipe": recipe})
    run = train(digit_folders, settings, tmp_path / "run", console, clock=Clock(time))
    assert 130 * 0.6 < time.seconds < 130 - 8
    shares = ["image_size" in record for record in run.history()]
    assert shares == sorted(shares, reverse=True)
    assert 0.1 < sum(shares) / len(shares) < 0.4
    assert time.rates[-1] < 0.05 * recipe.learning_rate
    assert "scratch at 32×32 ended: its time was up" in console.export_text(clear=False)
    assert "scratch at 64×64 ended: its time was up" in console.export_text()


def test_stated_epochs_are_the_most(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path
) -> None:
    config = timed(1000, recipe__epochs=2)
    run = train(digit_folders, config, tmp_path / "run", clock=Clock(time))
    assert time.batches == 2 * NUM_BATCHES
    assert run.history()[-1]["ended"] == "its epochs were done"
    assert time.rates[-1] < 0.05 * config.recipe.learning_rate


def test_a_set_too_large_is_seen_in_part(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), record=True, width=200)
    train(digit_folders, timed(32), tmp_path / "run", console, clock=Clock(time))
    assert 0 < time.batches < NUM_BATCHES
    assert time.validations == 1
    assert "of the training samples" in console.export_text()


def test_stopping_early_is_told(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path
) -> None:
    config = timed(
        500,
        recipe__learning_rate=1e-9,
        recipe__stopping__patience=2,
        recipe__stopping__monitor="val_accuracy",
    )
    run = train(digit_folders, config, tmp_path / "run", clock=Clock(time))
    assert run.history()[-1]["ended"] == "it stood still"


def test_a_resumed_run_has_what_was_left(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path
) -> None:
    config = timed(80, checkpoint__every_steps=5)
    time.dies_in_batch = 16
    with pytest.raises(Killed):
        train(digit_folders, config, tmp_path / "run", clock=Clock(time))
    spent, before = time.seconds, time.rates[-1]
    time.dies_in_batch = -1
    time.seconds += 10_000  # nobody was there
    time.rates.clear()
    began = time.seconds
    run = resume(tmp_path / "run", clock=Clock(time))
    # What came after the checkpoint of batch 15 was lost, and does not count.
    assert 80 * 0.7 < spent + time.seconds - began < 80 - 8 + 2
    assert time.rates[0] == pytest.approx(before, rel=0.1)
    assert time.rates[-1] < 0.05 * config.recipe.learning_rate
    assert time.rates == sorted(time.rates, reverse=True)
    assert run.status()["state"] == "finished"
    assert time.seconds - began < run.status()["seconds"] <= spent + time.seconds - began


def test_a_resumed_run_whose_time_is_up_ends_with_what_it_has(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path, digit_run: Run
) -> None:
    weights = next(digit_run.model_folder.glob("*.keras"))
    time.dies_in_batch = 3
    with pytest.raises(Killed):
        train(
            digit_folders,
            timed(100, checkpoint__every_steps=1, model__weights=weights),
            tmp_path / "run",
            clock=Clock(time),
        )
    time.dies_in_batch = -1
    clock = Clock(time)
    clock.add(200)
    run = resume(tmp_path / "run", clock=clock)
    assert [record["stage"] for record in run.history()] == ["frozen"]
    assert run.status()["state"] == "finished"


def test_a_time_that_compiling_takes_is_refused(
    time: Ticking, digit_folders: Path, timed: Config, tmp_path: Path
) -> None:
    """It is known after the first batch; what the message names does suffice."""
    time.compiling = 40.0
    with pytest.raises(BudgetError, match=r"budget\.time") as error:
        train(digit_folders, timed(60), tmp_path / "run", clock=Clock(time))
    assert not (tmp_path / "run").exists()
    named = float(str(error.value).split('"')[1].rstrip("s"))
    began = time.seconds
    run = train(digit_folders, timed(named), tmp_path / "run", clock=Clock(time))
    assert time.seconds - began < named
    assert run.status()["state"] == "finished"


def test_seconds_are_refused_on_the_command_line(
    digit_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"train {digit_folders} --out {tmp_path / 'run'} --budget.time 2s"
    flags = ["--model.backbone", "simple_cnn", "--data.image_size", "16"]
    assert cli.run([*words.split(" "), *flags]) == 2
    assert "budget.time" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
