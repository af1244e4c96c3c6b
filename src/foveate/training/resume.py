"""Storing a run while it goes on, and putting it back where it was."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import keras
from rich.console import Console

from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.runs import Run
from foveate.training.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from foveate.training.tally import Tally


class Stateful(Protocol):
    """A callback that remembers something from batch to batch or from epoch to epoch."""

    def get_state(self) -> dict[str, Any]:
        """Give it as JSON values."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        ...


class Checkpoints(keras.callbacks.Callback):
    """Writes checkpoints of one stage: in time, at its end, and when asked to stop.

    The end of a run's first epoch is stored as well: what was learned can then be gone on with.

    It must come after the callbacks whose state it keeps.

    Args:
        config: How often.
        run: Whose checkpoints.
        model: The model of the run; what is fitted may be a part of it.
        loader: The training loader, at the position where the stage begins or goes on.
        stage: Number of the stage, from 0.
        epochs: Number of its epochs, at most.
        first_epoch: Epoch of the stage that comes next, from 0.
        parts: The callbacks whose state is kept, by name.
        tally: What the run has taken so far.

    Attributes:
        position: Batches since the beginning of the run; a cut epoch counts as a whole one.
        stop_with: What to raise once the run is stored after this batch; None goes on.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        model: keras.Model,
        loader: BatchLoader,
        stage: int,
        epochs: int,
        first_epoch: int,
        parts: Mapping[str, Stateful],
        tally: Tally,
    ) -> None:
        super().__init__()
        self._run, self._whole, self._loader = run, model, loader
        self._parts, self._tally = parts, tally
        self._stage, self._epochs = stage, epochs
        self._seconds = config.checkpoint.every
        steps = config.checkpoint.every_steps
        self._batches = steps and steps * config.gradient_accumulation_steps
        self._stage_start = loader.epoch - first_epoch
        self.position = loader.epoch * len(loader) + loader.first_batch
        self._saved_at, self._unsaved = time.monotonic(), 0
        self._metrics: Checkpoint | None = None
        self.stop_with: BaseException | None = None

    def store_beginning(self, fitted: keras.Model) -> None:
        """Store a stage that begins with the best weights so far: these may soon be others.

        Args:
            fitted: What is fitted, compiled and with its weights.
        """
        self.set_model(fitted)
        self._save(0, finished=False)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on with the metrics of the epoch in which a checkpoint was written."""
        for name, part in self._parts.items():
            part.set_state(checkpoint.state["parts"][name])
        self._metrics = checkpoint if self._loader.first_batch else None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note where the epoch stands; Keras has just set all metrics to zero."""
        self._epoch = epoch
        start = (self._stage_start + epoch) * len(self._loader)
        self.position = start + self._loader.first_batch
        if self._metrics is not None:
            self._metrics.restore(self.model, "metrics")
            self._metrics = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save where it is time to; the last batch belongs to the end of the epoch."""
        self.position += 1
        self._unsaved += 1
        if self.position % len(self._loader) and (self._is_time() or self.stop_with):
            self._save(self._epoch, finished=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save at the end of the stage, of the run's first epoch, or where it is time to."""
        # The next epoch is new, even where this one was cut short.
        self.position = (self._stage_start + epoch + 1) * len(self._loader)
        finished = epoch + 1 == self._epochs or self.model.stop_training
        is_first = not has_checkpoint(self._run.checkpoints)
        if finished or is_first or self._is_time() or self.stop_with:
            self._save(epoch + 1, finished)

    def _is_time(self) -> bool:
        enough = self._batches is not None and self._unsaved >= self._batches
        return enough or time.monotonic() - self._saved_at >= self._seconds

    def _save(self, epoch: int, finished: bool) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # JAX trains on a copy of all variables
        state = {
            "stage": self._stage,
            "epoch": epoch,
            "finished": finished,
            "position": self.position,
            "batch_size": self._loader.batch_size,
            "num_epochs": len(self._run.history()),
            "parts": {name: part.get_state() for name, part in self._parts.items()},
            "tally": self._tally.to_dict(),
        }
        save_checkpoint(self._run.checkpoints, self.position, state, self._whole, self.model)
        self._saved_at, self._unsaved = time.monotonic(), 0
        if self.stop_with is not None:
            raise self.stop_with


def restore_model(
    model: keras.Model, trained: keras.Model, loader: BatchLoader, checkpoint: Checkpoint
) -> None:
    """Put a model, its optimizer and a loader back where a checkpoint was written.

    Args:
        model: The model of the run.
        trained: What of it is fitted, or all of it; compiled as it was then.
        loader: The training loader.
        checkpoint: The moment; metrics wait for `Checkpoints.restore`.
    """
    position = checkpoint.state["position"]
    checkpoint.restore(model, "model")  # JAX leaves none where its first batch did not fit
    # Keras makes the variables of metrics with the first batch that they see.
    trained.test_on_batch(*loader.batch_at(position))
    checkpoint.restore(model, "model")  # again: the states of random layers have gone on
    checkpoint.restore(trained, "optimizer")
    loader.resume_at(position)


def go_on_at_next_size(folder: Path, index: int, model: keras.Model, loader: BatchLoader) -> None:
    """Take over what the same stage has come to on smaller images: weights and optimizer.

    The checkpoint at its end holds both, and is where a run that was stopped there goes on.

    Args:
        folder: Where checkpoints are kept.
        index: Number of the stage that begins; that before it may have been left out.
        model: The model of this size, compiled.
        loader: The training loader.
    """
    before = load_checkpoint(folder)
    if before is None or before.state["stage"] != index - 1:
        return
    before = before.in_batches_of(loader.batch_size)
    before.restore(model, "model")
    before.restore(model, "optimizer")


@contextmanager
def stopping_softly(checkpoints: Checkpoints, console: Console) -> Iterator[None]:
    """Let Ctrl-C or a polite kill finish the batch and store it; a second one stops at once.

    Args:
        checkpoints: Is asked to save and stop.
        console: Where the person is told.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if isinstance(checkpoints.stop_with, KeyboardInterrupt):
            raise KeyboardInterrupt
        checkpoints.stop_with = KeyboardInterrupt()
        console.print("Stopping after this batch; once more stops at once.", highlight=False)

    if threading.current_thread() is not threading.main_thread():  # signals come to that alone
        yield
        return
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
