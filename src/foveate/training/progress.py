"""What a person sees while a stage runs: a bar with rate and ETA, a line an epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.training.clock import StageTime
from foveate.training.prepare import Prepared

_REFRESH_SECONDS = 0.25


class ProgressDisplay(keras.callbacks.Callback):
    """Shows a stage on a console; without a terminal only the line of each epoch.

    The bar stands while the display is entered as a context: Keras calls no callback when a
    `fit` ends with an error or Ctrl-C.

    Args:
        console: Where to.
        stage: Name of the stage.
        epochs: Number of its epochs; None where its time decides.
        loader: The training loader, whose waiting time is shown.
        time: The stage's time, if it is stated; the bar then goes by it.
    """

    def __init__(
        self,
        console: Console,
        stage: str,
        epochs: int | None,
        loader: BatchLoader,
        time: StageTime | None = None,
    ) -> None:
        super().__init__()
        self._console, self._stage, self._loader = console, stage, loader
        self._epochs, self._stage_time = epochs, time
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
        self._epoch = self._first = 0
        self._shown = 0.0
        self._clock_started = self._waited = self._seconds = 0.0
        self._timed_batches = 0
        self._compiling = True

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        total = self._epochs * len(self._loader) if self._epochs and not self._stage_time else 1.0
        self._task = self._bar.add_task(self._stage, total=total, note="")
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clocks of the epoch."""
        self._epoch, self._first = epoch, self._loader.first_batch
        self._start_clock()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Move the bar, a few times a second."""
        now = time.perf_counter()
        self._seconds, self._timed_batches = now - self._clock_started, self._timed_batches + 1
        if self._compiling and len(self._loader) > 1:
            # The first batch waits for the compiler, which says nothing of the rate.
            self._start_clock()
        self._compiling = False
        done_of_epoch = self._first + batch + 1
        last = done_of_epoch == len(self._loader)
        if self._task is None or not (last or now - self._shown > _REFRESH_SECONDS):
            return
        self._shown = now
        loss = f"loss {float(logs['loss']):.3f} · " if logs and "loss" in logs else ""
        done = self._epoch * len(self._loader) + done_of_epoch
        self._bar.update(
            self._task,
            completed=done if self._stage_time is None else self._stage_time.progress(),
            note=loss + self._speed(),
            description=self._count(self._epoch),
        )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Print the line of the epoch."""
        values = " · ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
        self._console.print(
            f"{self._count(epoch)} · {values} · {self._speed()}",
            highlight=False,
            soft_wrap=True,
        )

    def _count(self, epoch: int) -> str:
        """The stage, and how far its epochs are."""
        return f"{self._stage} {epoch + 1}" + (f"/{self._epochs}" if self._epochs else "")

    def _start_clock(self) -> None:
        self._clock_started, self._waited = time.perf_counter(), self._loader.wait_seconds
        self._timed_batches = 0

    def _speed(self) -> str:
        """Images a second, and the share of time that the model waited for them."""
        if not self._timed_batches:
            return "compiling"
        seconds = max(self._seconds, 1e-9)
        waited = self._loader.wait_seconds - self._waited
        rate = self._timed_batches * self._loader.batch_size / seconds
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
        tasks: list[TaskID] = []

        def report(done: int, total: int) -> None:
            if not tasks:  # nothing is shown where there is nothing to count
                tasks.append(bar.add_task(what, total=total))
            bar.update(tasks[0], completed=done, total=total)

        yield report


def announce(console: Console, prepared: Prepared, config: RunConfig) -> None:
    """Say in one line what is going to be trained on what."""
    counts = prepared.manifest.table["split"].cast(str).value_counts()
    sizes = dict(counts.iter_rows())
    shares = ", ".join(
        f"{sizes.get(name, 0):,} {name}" for name in ("train", "validation", "test")
    )
    height, width = prepared.image_size
    tile = prepared.tiles.size
    cut = f" · tiles of {tile[0]}×{tile[1]} pixels" if tile is not None else ""
    console.print(
        f"{prepared.manifest.num_samples:,} samples ({shares}) · {prepared.task.name} in "
        f"{prepared.task.num_outputs} classes · {config.model.backbone} at {height}×{width}"
        f"{cut} · {keras.backend.backend()}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
