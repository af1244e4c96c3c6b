"""What the processes of a search do: look at the data, train and judge a run, or take trials.

``python -m foveate.search.child PARENT look STUDY PART``, ``… train STUDY/trials/TRIAL/RUN PART``,
``… retrain STUDY/retrained PART`` and ``… work STUDY/workers/NUMBER PART``;
`foveate.search.process` starts them. PARENT is the number of the process with which they end, PART
says which part of the processors they keep to. The outcome, or the reason why there is none, goes
to ``outcome.json`` in the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from rich.console import Console

from foveate import machine
from foveate.config.files import load_config
from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.disk import write_atomically
from foveate.errors import FoveateError, RunError
from foveate.runs import Run
from foveate.scale import runtime
from foveate.search.look import facts_of
from foveate.search.process import end_with_parent

_INTERRUPTED = 130


def main(parent: int, verb: str, folder: Path, part: int) -> int:
    """Do the work and write its outcome.

    Args:
        parent: Number of the process that started this one, which ends with it.
        verb: ``look``, ``train``, ``retrain`` or ``work``.
        folder: Where the outcome goes.
        part: Which part of the processors it keeps to, where the settings say how many.

    Returns:
        The exit code.
    """
    end_with_parent(parent)
    work = {"look": _look, "train": _train, "retrain": _retrain, "work": _work}[verb]
    try:
        outcome = work(folder, part)
    except FoveateError as error:
        # What somebody else's code has raised is no contradiction of settings.
        kind = RunError if error.__cause__ is not None else type(error)
        outcome = {"error": kind.__name__, "message": str(error)}
    except KeyboardInterrupt:
        outcome = None
    if outcome is None:
        return _INTERRUPTED
    write_atomically(folder / "outcome.json", json.dumps(outcome))
    return 0


def _work(folder: Path, part: int) -> dict[str, Any]:
    """Be one of several workers of a study; what it starts keeps to a part of the processors."""
    del part
    from foveate.search.study import StudyFolder
    from foveate.search.worker import Worker

    Worker(StudyFolder(folder.parents[1]), int(folder.name)).work()
    return {}


def _settings(folder: Path, part: int) -> RunConfig:
    """Read the settings, keep to the processors that they allow, and make the backend ready."""
    config = load_config(folder / "config.toml")
    if config.budget.cpus is not None:
        machine.limit_cpus(config.budget.cpus, part)
    runtime.prepare(config.runtime.backend)
    return config


def _look(folder: Path, part: int) -> dict[str, Any]:
    """Give the samples their splits, for all trials the same; say what a run would be like."""
    config = _settings(folder, part)
    from foveate.models.backbones import get_backbone
    from foveate.training.prepare import prepare

    if (varied := config.search.space.get("model.backbone")) is not None:
        for name in varied.choices:
            get_backbone(str(name))
    path = folder / "manifest.parquet"
    prepared = prepare(Manifest.load(path), config)
    prepared.manifest.save(path)
    return asdict(facts_of(prepared, config))


def _train(folder: Path, part: int) -> dict[str, Any] | None:
    """Train and judge on the validation split."""
    study, of_its_own = folder.parents[2], folder / "manifest.parquet"
    found = of_its_own if of_its_own.exists() else study / "manifest.parquet"
    run = _trained(folder, Manifest.load(found), part)
    return None if run is None else _judged(run, "validation")


def _retrain(folder: Path, part: int) -> dict[str, Any] | None:
    """Train on train and validation together, and judge on the test split, if there is one."""
    manifest = Manifest.load(folder.parent / "manifest.parquet")
    split = manifest.table["split"].cast(pl.String)
    manifest = manifest.with_splits((split == "test").cast(pl.Int64).to_numpy() * 2)
    run = _trained(folder, manifest, part)
    if run is None:
        return None
    outcome = _judged(run, "test") if (split == "test").any() else {}
    from foveate.report.report import write_report

    write_report(run)
    return outcome


def _trained(folder: Path, manifest: Manifest, part: int) -> Run | None:
    """Train, or go on where an earlier process was stopped; None where this one was."""
    from foveate.planning import planner
    from foveate.training.clock import Clock

    clock, console = Clock.of_process(), Console(width=100)
    config, run = _settings(folder, part), Run(folder / "run")
    _take_over(run)
    if _can_go_on(run):
        from foveate.training.recipe import resume

        run = resume(run.folder, console, clock, restarts=True)
    elif not _is_finished(run):
        run.discard()
        with clock.planning():
            source, plan = planner.hold_to_budget(manifest, config, console)
        from foveate.training.recipe import train

        run = train(source, config, run.folder, console, plan, clock, restarts=True)
    state = run.status()["state"]
    if state == "restarting":
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "foveate.search.child", *sys.argv[1:]])  # noqa: S606
    return None if state == "interrupted" else run


def _judged(run: Run, split: str) -> dict[str, Any]:
    from foveate.evaluation.scores import evaluate

    scores = evaluate(run, split)["scores"]
    return {
        "scores": scores,
        "peak_bytes": run.status()["peak_memory_bytes"],
        "batch_size": run.config().batch_size,
    }


def _is_finished(run: Run) -> bool:
    """Whether a run was trained to its end before, by a process that could not say so."""
    return run.status_path.is_file() and run.status()["state"] == "finished"


def _can_go_on(run: Run) -> bool:
    """Whether a run was begun before, and left something to go on from."""
    from foveate.training.checkpoint import has_checkpoint

    return run.is_unfinished() and (has_checkpoint(run.checkpoints) or run.is_handed_over())


def _take_over(run: Run) -> None:
    """End the process of a worker that stood still for so long that its trial was given to us."""
    if run.status_path.is_file() and (pid := run.trained_by()) is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            process.kill()
            process.wait()


if __name__ == "__main__":
    runtime.own_process()
    sys.exit(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
