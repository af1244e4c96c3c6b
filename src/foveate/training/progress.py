"""What a person sees while a stage runs: a bar with rate and ETA, a line an epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from foveate.data.loader import BatchLoader

_REFRESH_SECONDS = 0.25


class ProgressDisplay(keras.callbacks.Callback):
    """Shows a stage on a console; without a terminal only the line of each epoch.

    Args:
        console: Where to.
        stage: Name of the stage.
        epochs: Number of its epochs.
        loader: The training loader, whose waiting time is shown.
    """

    def __init__(self, console: Console, stage: str, epochs: int, loader: BatchLoader) -> None:
        super().__init__()
        self._console, self._stage, self._epochs, self._loader = console, stage, epochs, loader
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._epoch_started = self._shown = self._waited = 0.0
        self._train_seconds = 0.0
        self._epoch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Put up the bar."""
        self._bar.start()
        total = self._epochs * len(self._loader)
        self._task = self._bar.add_task(self._stage, total=total, note="")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clocks of the epoch."""
        self._epoch = epoch
        self._epoch_started, self._waited = time.perf_counter(), self._loader.wait_seconds

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Move the bar, a few times a second."""
        now = time.perf_counter()
        self._train_seconds = now - self._epoch_started
        last = batch + 1 == len(self._loader)
        if self._task is None or not (last or now - self._shown > _REFRESH_SECONDS):
            return
        self._shown = now
        loss = f"loss {float(logs['loss']):.3f} · " if logs and "loss" in logs else ""
        done = self._epoch * len(self._loader) + batch + 1
        self._bar.update(self._task, completed=done, note=loss + self._speed(batch + 1))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Print the line of the epoch."""
        values = " · ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
        self._console.print(
            f"{self._stage} {epoch + 1}/{self._epochs} · {values} · "
            f"{self._speed(len(self._loader))}",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs: Any = None) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _speed(self, batches: int) -> str:
        seconds = max(self._train_seconds, 1e-9)
        waited = self._loader.wait_seconds - self._waited
        rate = batches * self._loader.batch_size / seconds
        return f"{rate:,.0f} images/s · waits {min(waited / seconds, 1.0):.0%}"


@contextlib.contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a count has come.

    Args:
        console: Where to; nothing is shown without a terminal.
        what: What is being done.

    Yields:
        A function to call with (done, of how many).
    """
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
