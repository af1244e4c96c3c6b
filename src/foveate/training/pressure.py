"""What gives way when memory runs short: the queue, then the batches, and only then the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from rich.console import Console

from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.errors import BudgetError
from foveate.planning.guard import MemoryGuard
from foveate.planning.plan import size_text
from foveate.scale import runtime
from foveate.training.resume import Checkpoints


class TooLargeError(Exception):
    """The batches are too large for the memory; what was done until now is stored."""


class MemoryWatch(keras.callbacks.Callback):
    """Looks after each batch whether memory is near its limit, and makes something give way.

    It must come before the callback that stores checkpoints.

    Args:
        guard: Watches the memory.
        loader: Its queue gives way first.
        checkpoints: Stores the run before it goes on with smaller batches.
        cycle: Batches of one step.
        console: Where the person is told.
    """

    def __init__(
        self,
        guard: MemoryGuard,
        loader: BatchLoader,
        checkpoints: Checkpoints,
        cycle: int,
        console: Console,
    ) -> None:
        super().__init__()
        self._guard, self._loader, self._checkpoints = guard, loader, checkpoints
        self._cycle, self._console = cycle, console

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Free what can be freed; ask for smaller batches at the end of a step."""
        if not self._guard.is_near():
            return
        self._guard.relieve()
        if not self._guard.is_near():
            return
        limit = size_text(self._guard.limit_bytes)
        if self._loader.shrink_queue():
            self._console.print(f"Memory is near its limit of {limit}: the queue shrinks.")
        elif not self._checkpoints.stop_with and self._is_end_of_step():
            self._checkpoints.stop_with = TooLargeError(f"its memory limit of {limit}")

    def _is_end_of_step(self) -> bool:
        return (self._checkpoints.position + 1) % self._cycle == 0


@contextmanager
def device_memory_told() -> Iterator[None]:
    """Turn what a backend raises for lack of device memory into `TooLargeError`."""
    try:
        yield
    except Exception as error:
        if not runtime.lacks_device_memory(error):
            raise
        raise TooLargeError("the memory of the accelerator") from error


def halved(config: RunConfig, limit: str) -> RunConfig:
    """Make the batches half as large, and twice as many of them a step.

    Args:
        config: The settings of the run.
        limit: What was met, for messages, such as "its memory limit of 2.00 GiB".

    Returns:
        The settings to go on with; a step holds the same samples.

    Raises:
        BudgetError: A batch is one sample already, or an odd number.
    """
    if config.batch_size % 2:
        even = "an even data.batch_size or " if config.batch_size > 1 else ""
        raise BudgetError(
            f"The run must stay below {limit}, but got there with batches of "
            f"{config.batch_size}, which cannot be halved. Start anew with {even}a smaller "
            "data.image_size or model.backbone. If the limit is budget.ram, a higher one in the "
            "run's config.toml will do: foveate train --resume goes on from the checkpoint."
        )
    data = config.data.model_copy(update={"batch_size": config.batch_size // 2})
    steps = 2 * config.gradient_accumulation_steps
    recipe = config.recipe.model_copy(
        update={"gradient_accumulation_steps": steps, "effective_batch_size": None}
    )
    return config.model_copy(update={"data": data, "recipe": recipe})
