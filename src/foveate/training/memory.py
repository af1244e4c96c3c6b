"""Training that stays within its memory: where it runs short, batches become half as large."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import psutil

from foveate import machine
from foveate.config.settings import RunConfig
from foveate.models.build import build_model
from foveate.planning.guard import tree_bytes
from foveate.planning.plan import size_text
from foveate.scale import runtime
from foveate.training.checkpoint import Checkpoint, load_checkpoint
from foveate.training.fitting import Work
from foveate.training.pressure import TooLargeError, device_memory_told, halved


def within_memory(
    work: Work,
    checkpoint: Checkpoint | None,
    run_stages: Callable[[Work, Checkpoint | None], None],
    restarts: bool,
) -> bool:
    """Run the stages of a run under its guard.

    Args:
        work: What to work with.
        checkpoint: Where to go on; None begins with the first stage.
        run_stages: Runs them; called again, from the last checkpoint, after each halving.
        restarts: Whether a fresh process goes on after a halving, instead of this one.

    Returns:
        Whether the stages are done; otherwise the settings in the run folder are those with which
        a fresh process goes on.

    Raises:
        BudgetError: Not even batches of one sample fit; a checkpoint is there to go on from.
    """
    with work.tally.guard:
        while True:
            try:
                with device_memory_told():
                    run_stages(work, checkpoint)
                break
            except TooLargeError as error:
                work = _with_smaller_batches(work, str(error), restarts)
            if restarts:
                return False
            checkpoint = _start_again(work)
    _tell(work)
    return True


def memory_limit(config: RunConfig) -> int:
    """Say how many bytes a run may take: `budget.ram`, else what the machine has left now."""
    free = tree_bytes() + psutil.virtual_memory().available
    return int(config.budget.ram or min(free, machine.memory_bytes()))


def _with_smaller_batches(work: Work, limit: str, restarts: bool) -> Work:
    config = halved(work.run.config(), limit)  # what a stage has settled is stored there alone
    work.run.save_config(config)
    where = ", in a fresh process" if restarts else ""
    work.console.print(
        f"Near {limit}: batches of {config.batch_size} from here on, "
        f"{config.gradient_accumulation_steps} to a step{where}.",
        highlight=False,
        soft_wrap=True,
    )
    return dataclasses.replace(work, config=config)


def _start_again(work: Work) -> Checkpoint | None:
    """Give back memory, and go to the last checkpoint, or to the beginning where there is none."""
    config, model = work.config, work.model
    # Compiled for the old size: memory that the new one needs.
    model.train_function = model.test_function = model.optimizer = None
    work.tally.guard.relieve()
    checkpoint = load_checkpoint(work.run.checkpoints)
    if checkpoint is None:  # it was the first batch that did not fit
        keras.utils.set_random_seed(config.seed)
        with runtime.dtype_policy(config.recipe.precision):
            inputs, task = work.prepared.model_inputs, work.prepared.task
            fresh = build_model(config.model, inputs, task, config.seed)
        for variable, first in zip(model.variables, fresh.variables, strict=True):
            variable.assign(first)
    work.run.cut_history(checkpoint.state["num_epochs"] if checkpoint else 0)
    return checkpoint


def _tell(work: Work) -> None:
    guard = work.tally.guard
    if work.config.budget.ram is None:
        return
    planned = ""
    if work.run.plan_path.exists():
        planned = f", planned {size_text(work.run.load_json(work.run.plan_path)['peak_bytes'])}"
    work.console.print(
        f"Memory: {size_text(guard.peak_bytes)} at most of "
        f"{size_text(guard.limit_bytes)}{planned}.",
        highlight=False,
    )
