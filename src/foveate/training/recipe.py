"""The story of a run, top to bottom."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.errors import FoveateError, RunError
from foveate.models.bundle import Bundle, save_bundle
from foveate.planning.plan import Plan
from foveate.runs import Run, next_folder
from foveate.scale import runtime
from foveate.training.best import BestEpoch
from foveate.training.checkpoint import (
    Checkpoint,
    drop_checkpoints,
    has_checkpoint,
    load_checkpoint,
    load_weights,
)
from foveate.training.clock import Clock
from foveate.training.feeding import feed_images, feeding
from foveate.training.fitting import Work, run_stage
from foveate.training.memory import within_memory
from foveate.training.prepare import Prepared
from foveate.training.resizing import at_size
from foveate.training.setup import set_up
from foveate.training.stages import in_sizes, plan_stages


def train(
    data: Any,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
    plan: Plan | None = None,
    clock: Clock | None = None,
    restarts: bool = False,
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
        restarts: Whether the caller takes care that a fresh process goes on where memory runs
            short, which frees what a backend keeps of larger batches. Otherwise this one does.

    Returns:
        The finished run. After Ctrl-C it has status ``interrupted`` and the best model so far;
        `resume` goes on with it. With status ``restarting``, `resume` is to be called by what
        this process becomes, or by a child that it waits for.

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
    work = set_up(run, data, config, console, clock, plan=plan)
    if work.time is not None:
        work.time.require_enough()
    if out is None and run.folder.exists():  # another run has taken it meanwhile
        run = Run(next_folder(run.folder.parent, _stem(data)))
        work = replace(work, run=run)
    Run.create(run.folder, work.config)
    with run.claimed(), _leaving_nothing_half_done(work):
        work.prepared.manifest.save(run.manifest_path)
        if plan is not None:
            run.save_json(run.plan_path, plan.to_dict())
        return _carry_out(work, None, restarts)


def resume(
    out: str | Path,
    console: Console | None = None,
    clock: Clock | None = None,
    restarts: bool = False,
) -> Run:
    """Go on with a run that was interrupted, killed, or failed, from its last checkpoint.

    On the CPU with TensorFlow it ends with the very weights of a run that was never stopped;
    but not with `budget.time`, of which it has what was left at the checkpoint.

    Args:
        out: The run folder.
        console: Where progress is shown; nowhere when None.
        clock: As for `train`.
        restarts: As for `train`.

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
    with run.claimed():
        return _go_on(run, console, clock, restarts)


def _go_on(run: Run, console: Console, clock: Clock, restarts: bool) -> Run:
    """Set up what the run had at its last checkpoint, and carry it out."""
    config = run.config()
    runtime.prepare(run.backend)
    checkpoint = load_checkpoint(run.checkpoints)
    if checkpoint is None and not run.is_handed_over():  # else its first batch did not fit
        raise RunError(
            f"The run {str(run.folder)!r} must have a checkpoint to go on from, but got none: "
            "it was stopped before its first. Delete the folder and start anew."
        )
    plan = Plan.load(run.plan_path) if run.plan_path.exists() else None
    manifest = Manifest.load(run.manifest_path)
    work = set_up(run, manifest, config, console, clock, checkpoint, plan)
    work.tally.add(_taken_before(run, clock, checkpoint))
    run.cut_history(checkpoint.state["num_epochs"] if checkpoint else 0)
    with _leaving_nothing_half_done(work):
        return _carry_out(work, checkpoint, restarts)


def _taken_before(run: Run, clock: Clock, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """What the run had taken at its checkpoint, or until it was handed over to this process."""
    if checkpoint is not None and not run.is_handed_over():
        return dict(checkpoint.state["tally"])
    status = run.status()
    return {**status, "seconds": clock.started - status["began"]}


def _carry_out(work: Work, checkpoint: Checkpoint | None, restarts: bool) -> Run:
    """Run the stages, keep the best model, say how it ended."""
    run, model = work.run, work.model
    backend = keras.backend.backend()
    run.forget_judgements()
    run.set_status("running", pid=os.getpid(), backend=backend)
    state = "finished"
    try:
        if not within_memory(work, checkpoint, run_stages, restarts):
            state = "restarting"
    except KeyboardInterrupt:
        if has_checkpoint(run.checkpoints):
            note = f"to go on: foveate train --resume {shlex.quote(str(run.folder))}"
        elif run.best_weights.exists():
            note = "keeping the best epoch so far."
        else:
            raise
        work.console.print(f"Interrupted; {note}", highlight=False, markup=False, soft_wrap=True)
        state = "interrupted"
    finally:
        # Also after an error: what was learned until then is worth keeping.
        if state != "restarting" and run.best_weights.exists():
            load_weights(model, run.best_weights)
            save_bundle(run.model_folder, Bundle(model, describe(work.prepared, work.config)))
    taken = {"backend": backend, **work.tally.to_dict()}
    if state == "restarting":
        taken |= {"pid": os.getpid(), "began": work.tally.clock.started}
    run.set_status(state, **taken)
    if state == "finished":
        drop_checkpoints(run.checkpoints)
    return run


def run_stages(work: Work, checkpoint: Checkpoint | None = None) -> None:
    """Train the stages in turn, each from the best epoch so far.

    Args:
        work: What to work with; its model ends with the weights of its last epoch.
        checkpoint: Where to go on; None begins with the first stage.
    """
    images = feed_images(work)
    best = BestEpoch(work.stopping, work.run.best_weights)
    begin = 0
    if checkpoint is not None:
        checkpoint = checkpoint.in_batches_of(images.train.batch_size)
        begin = checkpoint.state["stage"]
        if checkpoint.state["finished"]:
            begin += 1
            checkpoint.restore(work.model, "model")  # for the states of its random layers
            best.set_state(checkpoint.state["parts"]["best"])
            images.train.resume_at(checkpoint.state["position"])
            checkpoint = None
    try:
        stages = in_sizes(plan_stages(work.config), work.config.recipe.image_sizes or 1)
        for index in range(begin, len(stages)):
            part = at_size(work, stages[index])
            with feeding(part, index, stages, images) as feed:
                run_stage(part, index, stages, best, feed, checkpoint)
            checkpoint = None
    finally:
        best.write()
        for loader in images.loaders.values():
            loader.close()


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


@contextlib.contextmanager
def _leaving_nothing_half_done(work: Work) -> Iterator[None]:
    """Record why a run failed; without an epoch or a checkpoint there is nothing to keep."""
    run = work.run
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not run.history() and not has_checkpoint(run.checkpoints):
            run.discard()
        else:
            reason = str(error) if isinstance(error, FoveateError) else repr(error)
            backend = keras.backend.backend()
            run.set_status("failed", reason=reason, backend=backend, **work.tally.to_dict())
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
            markup=False,
            soft_wrap=True,
        )
    return Run(folder)


def _stem(data: Any) -> str:
    source = data.source if isinstance(data, Manifest) else data
    return Path(source).resolve().stem if isinstance(source, str | Path) else "run"
