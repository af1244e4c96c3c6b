"""What happens while a stage runs: the rate, the history, its time, what compiling left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from foveate.config.recipe import ScheduleConfig
from foveate.data.loader import BatchLoader
from foveate.planning.memory import give_back
from foveate.runs import Run
from foveate.training.best import better, monitored
from foveate.training.clock import StageTime
from foveate.training.schedule import rate_factor


class GiveBack(keras.callbacks.Callback):
    """Gives back what was needed to compile alone: after the first batch, and the first epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._batches = self._epochs = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Give back, if training was just compiled."""
        self._batches += 1
        if self._batches == 1:
            give_back()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Give back, if validation was just compiled."""
        self._epochs += 1
        if self._epochs == 1:
            give_back()


class LearningRate(keras.callbacks.Callback):
    """Sets the rate before every batch, and drops it on a plateau where that is the schedule.

    Args:
        config: Shape of the schedule.
        peak: Highest rate.
        num_batches: Batches in the whole stage; None where only its time is known.
        monitor: Value whose plateau counts.
        cycle: Batches of one step, which share its rate.
        time: The stage's time, if it is stated. The rate then goes by the share of it that is
            spent (budgeted training, Li et al., ICLR 2020), or of the batches if that is more.
        span: Which part of the shape is the stage's, from 0 to 1.
    """

    def __init__(
        self,
        config: ScheduleConfig,
        peak: float,
        num_batches: int | None,
        monitor: str,
        cycle: int = 1,
        time: StageTime | None = None,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self._config, self._peak, self._num_batches, self._span = config, peak, num_batches, span
        self._monitor, self._cycle, self._time = monitor, cycle, time
        self._seen = 0
        self._scale = 1.0
        self._best: float | None = None
        self._waited = 0

    def get_state(self) -> dict[str, Any]:
        """Give what the coming rates depend on, as JSON values."""
        return {
            "seen": self._seen, "scale": self._scale, "best": self._best, "waited": self._waited,
        }  # fmt: skip

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` gave."""
        self._seen, self._scale = state["seen"], state["scale"]
        self._best, self._waited = state["best"], state["waited"]

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rate for the middle of the step that the coming batch belongs to."""
        middle = self._seen // self._cycle * self._cycle + self._cycle / 2
        progress = middle / self._num_batches if self._num_batches else 0.0
        if self._time is not None:
            progress = max(progress, self._time.progress(ahead=self._time.run.pace.batch / 2))
        self._seen += 1
        if keras.backend.backend() == "jax":
            # JAX trains on a copy of all variables; take it back so that the rate counts.
            self.model.jax_state_sync()
        begin, end = self._span
        progress = begin + min(progress, 1.0) * (end - begin)
        rate = self._peak * self._scale * rate_factor(progress, self._config)
        # TensorFlow keeps every Python number it has ever been given; an array it lets go.
        self.model.optimizer.learning_rate = np.asarray(rate, np.float32)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Drop the rate when the monitored value has not improved for long enough."""
        if self._config.name != "plateau":
            return
        value = monitored(logs or {}, self._monitor)
        if self._best is None or better(value, self._best, self._monitor):
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self._config.patience:
            self._scale = max(self._scale * self._config.factor, self._config.floor)
            self._waited = 0


class TimeKeeper(keras.callbacks.Callback):
    """Measures the pace of a stage, and ends it when its time is up.

    That may be in the middle of an epoch, after a whole number of steps; Keras then validates,
    and the epoch counts like any other. It must come after the callback that keeps the best
    epoch, whose time is measured, and before those that tell how the epoch ended.

    Args:
        time: The stage's time.
        loader: The training loader.
        epochs: Number of the stage's epochs, if it is stated.
        is_first: Whether nothing has been trained before, so that a time that is too short may
            still be refused.

    Attributes:
        ended: Why the stage ended; empty while it goes on.
        seen: Share of the training samples that the stage saw, 1 for all.
    """

    def __init__(
        self, time: StageTime, loader: BatchLoader, epochs: int | None, is_first: bool
    ) -> None:
        super().__init__()
        self._time, self._loader = time, loader
        self._epochs, self._is_first = epochs, is_first
        self._epoch = self._first = 0
        self._mark = 0.0
        self._is_compiling = True
        self.ended = ""
        self.seen = 1.0

    def get_state(self) -> dict[str, Any]:
        """Give what is spent of the stage, as JSON values."""
        return {"progress": self._time.progress()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the stage; the clock of the run is set where the run goes on."""
        self._time.resume_at(state["progress"])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note where the epoch begins."""
        self._epoch, self._first = epoch, self._loader.first_batch
        self._mark = self._time.run.clock.spent

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop after a step where the next would last too long."""
        self._time.run.pace.add_batch(self._lap())
        if self._is_compiling:
            self._time.begin()
            self._is_compiling = False
        done = self._first + batch + 1
        if done % self._time.cycle or self._time.has_room_for(1):
            return
        if self._epoch == 0:
            if self._is_first and done <= self._time.cycle:  # what has learned more is kept
                self._time.run.require_enough()
            self.seen = done / len(self._loader)
        self.ended = "its time was up"
        self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop where another epoch is not worth to begin, and note why the stage ends."""
        self._time.run.pace.add_epoch_end(self._lap())
        if self.ended:
            return
        if self.model.stop_training:
            self.ended = "it stood still"
        elif epoch + 1 == self._epochs:
            self.ended = "its epochs were done"
        elif not self._time.has_room_for_an_epoch(len(self._loader)):
            self.ended = "its time was up"
            self.model.stop_training = True

    def _lap(self) -> float:
        """Seconds since the last one."""
        before, self._mark = self._mark, self._time.run.clock.spent
        return self._mark - before


class History(keras.callbacks.Callback):
    """Writes a line an epoch to the run.

    Args:
        run: Where to.
        stage: Name of the stage.
        loader: Whose waiting time counts.
        keeper: Knows why the stage ends, if its time is stated.
        image_size: (height, width) in pixels, where images are not as large as otherwise.
        compares: Whether its values decide which epoch is kept, see `BestEpoch.watch`.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        loader: BatchLoader,
        keeper: TimeKeeper | None = None,
        image_size: tuple[int, int] | None = None,
        compares: bool = True,
    ) -> None:
        super().__init__()
        self._run, self._loader, self._keeper = run, loader, keeper
        self._about: dict[str, Any] = {"stage": stage}
        if image_size is not None:
            self._about["image_size"] = list(image_size)
        if not compares:
            self._about["compares"] = False
        self._started, self._waited = 0.0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clocks."""
        self._started, self._waited = time.perf_counter(), self._loader.wait_seconds

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Add the line."""
        record: dict[str, Any] = {
            **self._about,
            "epoch": epoch + 1,
            "seconds": round(time.perf_counter() - self._started, 3),
            "wait_seconds": round(self._loader.wait_seconds - self._waited, 3),
            "learning_rate": float(self.model.optimizer.learning_rate),
            **{name: float(value) for name, value in (logs or {}).items()},
        }
        if self._keeper is not None and self._keeper.ended:
            record["ended"] = self._keeper.ended
        self._run.append_history(record)
