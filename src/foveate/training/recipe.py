"""The story of a run, top to bottom."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from foveate.config.recipe import StoppingConfig
from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.errors import ConfigError, FoveateError, RunError, nearest
from foveate.models.build import build_model
from foveate.models.bundle import Bundle, save_bundle
from foveate.planning.plan import Plan
from foveate.runs import Run, next_folder
from foveate.scale import runtime
from foveate.training.callbacks import BestEpoch
from foveate.training.checkpoint import (
    Checkpoint,
    drop_checkpoints,
    has_checkpoint,
    load_checkpoint,
    load_weights,
)
from foveate.training.clock import Clock, Pace, RunTime
from foveate.training.fitting import Work, run_stage
from foveate.training.memory import within_memory
from foveate.training.prepare import Prepared, prepare
from foveate.training.progress import announce, counting
from foveate.training.stages import plan_stages


def train(
    data: Any,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
    plan: Plan | None = None,
    clock: Clock | None = None,
) -> Run:
    """Train a model on data and leave a run folder.

    Args:
        data: A folder, a CSV or Parquet file, a dataframe, or a Manifest.
        config: The settings; defaults when None.
        out: The run folder, new or empty; ``runs/<data>-<number>`` when None.
        console: Where progress is shown; nowhere when None.
        plan: What `foveate.planning.planner` chose for this data and these settings.
        clock: Counts the time against `budget.time`; it starts now when None. Some of that time
            is left at the end, to judge and to report.

    Returns:
        The finished run. After Ctrl-C it has status ``interrupted`` and the best model so far;
        `resume` goes on with it.

    Raises:
        ConfigError: Settings contradict each other or the data.
        ManifestError: The data does not describe a usable dataset.
        SampleError: A file cannot be read.
        RunError: The run folder cannot be used, the disk is full, or the loss left the finite
            numbers.
        BudgetError: The time does not suffice; the message names what would.
    """
    clock = clock or Clock()
    config = config or RunConfig()
    if plan is not None:
        config = plan.apply(config)
    console = console or Console(quiet=True)
    run = Run(out) if out is not None else _next_run(_stem(data), console)
    run.require_unused()
    runtime.prepare(config.runtime.backend)
    plan_stages(config)
    work = _set_up(run, data, config, console, clock)
    if work.time is not None:
        work.time.require_enough()
    Run.create(run.folder, config)
    with _leaving_nothing_half_done(run):
        work.prepared.manifest.save(run.manifest_path)
        if plan is not None:
            run.save_json(run.plan_path, plan.to_dict())
        return _carry_out(work, None)


def resume(out: str | Path, console: Console | None = None, clock: Clock | None = None) -> Run:
    """Go on with a run that was interrupted, killed, or failed, from its last checkpoint.

    On the CPU with TensorFlow it ends with the very weights of a run that was never stopped;
    but not with `budget.time`, of which it has what was left at the checkpoint.

    Args:
        out: The run folder.
        console: Where progress is shown; nowhere when None.
        clock: As for `train`.

    Returns:
        The finished run, or again an interrupted one, see `train`.

    Raises:
        RunError: There is no run, it has finished, is being trained at this moment, or has no
            checkpoint.
        FoveateError: As for `train`.
    """
    clock = clock or Clock()
    console = console or Console(quiet=True)
    run = Run.open(out)
    run.require_resumable()
    config = run.config()
    runtime.prepare(run.backend)
    checkpoint = load_checkpoint(run.checkpoints)
    if checkpoint is None:
        raise RunError(
            f"The run {str(run.folder)!r} must have a checkpoint to go on from, but got none: "
            "it was stopped before its first. Delete the folder and start anew."
        )
    work = _set_up(run, Manifest.load(run.manifest_path), config, console, clock, checkpoint)
    run.cut_history(checkpoint.state["num_epochs"])
    with _leaving_nothing_half_done(run):
        return _carry_out(work, checkpoint)


def _set_up(
    run: Run,
    data: Any,
    config: RunConfig,
    console: Console,
    clock: Clock,
    checkpoint: Checkpoint | None = None,
) -> Work:
    with counting(console, "reading masks") as report:
        prepared = prepare(data, config, report)
    announce(console, prepared, config)
    keras.utils.set_random_seed(config.seed)
    with runtime.dtype_policy(config.recipe.precision):
        model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
    time = _time(config, prepared, clock, checkpoint)
    return Work(run, config, prepared, model, _stopping(config, prepared), console, time)


def _time(
    config: RunConfig, prepared: Prepared, clock: Clock, checkpoint: Checkpoint | None
) -> RunTime | None:
    """What the run may take; samples of the test split, or those in its place, are judged."""
    if config.budget.time is None:
        return None
    validated = prepared.rows("validation").num_samples
    judged = prepared.num_judged("test") or prepared.num_judged("validation")
    if checkpoint is not None:
        clock.add(checkpoint.state["parts"]["time"]["spent"])
    pace = Pace(config.batch_size, validated)
    return RunTime(config.budget.time, clock, pace, judged, checkpoint is not None)


def _carry_out(work: Work, checkpoint: Checkpoint | None) -> Run:
    """Run the stages, keep the best model, say how it ended."""
    run, model = work.run, work.model
    backend = keras.backend.backend()
    run.set_status("running", pid=os.getpid(), backend=backend)
    finished = True
    try:
        peak = within_memory(work, checkpoint, run_stages)
    except KeyboardInterrupt:
        if has_checkpoint(run.checkpoints):
            note = f"to go on: foveate train --resume {shlex.quote(str(run.folder))}"
        elif run.best_weights.exists():
            note = "keeping the best epoch so far."
        else:
            raise
        work.console.print(f"Interrupted; {note}", highlight=False, soft_wrap=True)
        finished = False
    finally:
        # Also after an error: what was learned until then is worth keeping.
        if run.best_weights.exists():
            load_weights(model, run.best_weights)
            save_bundle(run.model_folder, Bundle(model, describe(work.prepared, work.config)))
    if finished:
        run.set_status("finished", peak_memory_bytes=peak)
        drop_checkpoints(run.checkpoints)
    else:
        run.set_status("interrupted", backend=backend)
    return run


def run_stages(work: Work, checkpoint: Checkpoint | None = None) -> None:
    """Train the stages in turn, each from the best epoch so far.

    Args:
        work: What to work with; its model ends with the weights of its last epoch.
        checkpoint: Where to go on; None begins with the first stage.
    """
    train_loader = work.prepared.loader("train", work.config)
    validation = _validation_loader(work.prepared, work.config)
    best = BestEpoch(work.stopping, work.run.best_weights)
    begin = 0
    if checkpoint is not None:
        checkpoint = checkpoint.in_batches_of(train_loader.batch_size)
        begin = checkpoint.state["stage"]
        if checkpoint.state["finished"]:
            begin += 1
            checkpoint.restore(work.model, "model")  # for the states of its random layers
            best.set_state(checkpoint.state["parts"]["best"])
            train_loader.resume_at(checkpoint.state["position"])
            checkpoint = None
    try:
        stages = plan_stages(work.config)
        for index in range(begin, len(stages)):
            run_stage(work, index, stages, best, train_loader, validation, checkpoint)
            checkpoint = None
    finally:
        train_loader.close()
        if validation is not None:
            validation.close()


def describe(prepared: Prepared, config: RunConfig) -> dict[str, Any]:
    """Say in JSON values what a trained model needs to take a raw file."""
    return {
        "task": prepared.task.to_dict(),
        "image_size": list(prepared.image_size),
        "metadata": prepared.schema.to_dict() if prepared.schema else None,
        "decode": config.data.decode.model_dump(mode="json"),
        "tiles": config.data.tiles.model_dump(mode="json"),
        "backbone": config.model.backbone,
        "manifest": prepared.manifest.digest(),
    }


def _stopping(config: RunConfig, prepared: Prepared) -> StoppingConfig:
    """Check what is watched; without a validation split the training loss stands in."""
    stopping = config.recipe.stopping
    measured = ["loss"]
    measured += [getattr(m, "name", None) or m.__name__ for m in prepared.task.metrics()]
    if prepared.manifest.split("validation").num_samples:
        measured += [f"val_{name}" for name in measured]
    elif stopping.monitor == "val_loss":
        return stopping.model_copy(update={"monitor": "loss"})
    if stopping.monitor not in measured:
        raise ConfigError(
            f"recipe.stopping.monitor must be one of {measured}, but got {stopping.monitor!r}."
            f"{nearest(stopping.monitor, measured)}"
        )
    return stopping


def _validation_loader(prepared: Prepared, config: RunConfig) -> BatchLoader | None:
    rows = prepared.manifest.split("validation")
    return prepared.loader("validation", config) if rows.num_samples else None


@contextlib.contextmanager
def _leaving_nothing_half_done(run: Run) -> Iterator[None]:
    """Record why a run failed; without an epoch or a checkpoint there is nothing to keep."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not run.history() and not has_checkpoint(run.checkpoints):
            run.discard()
        else:
            reason = str(error) if isinstance(error, FoveateError) else repr(error)
            run.set_status("failed", reason=reason, backend=keras.backend.backend())
        raise


def _next_run(stem: str, console: Console) -> Run:
    """The next free folder; the one before may want to be gone on with."""
    folder = next_folder(Path("runs"), stem)
    number = int(folder.name.rpartition("-")[2])
    before = Run(folder.with_name(f"{stem}-{number - 1}"))
    if before.is_unfinished():
        console.print(
            f"{before.folder} has not finished. To go on with it instead: "
            f"foveate train --resume {shlex.quote(str(before.folder))}",
            highlight=False,
            soft_wrap=True,
        )
    return Run(folder)


def _stem(data: Any) -> str:
    source = data.source if isinstance(data, Manifest) else data
    return Path(source).resolve().stem if isinstance(source, str | Path) else "run"
