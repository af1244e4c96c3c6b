"""Runs as the command line trains, judges and uses them: with words for whoever looks on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

console = Console()


def say(text: str) -> None:
    """Print text as it is: never styled, and no line broken, so that paths can be copied."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def train_and_judge(
    data: str, config: Any, out: Path | None, given: Path | None = None
) -> int | Path:
    """Plan or take the given plan, train, judge and report; for `train` and `quickstart`.

    Returns:
        The exit code, or the run folder where a fresh process is to go on, as `foveate.cli.run`.
    """
    from foveate.training.clock import Clock

    clock = Clock.of_process()  # Python and Keras take their time
    from foveate.planning import planner
    from foveate.runs import Run
    from foveate.scale import runtime

    if out is not None:
        Run(out).require_unused()  # before anything takes long
    with clock.planning():
        source, plan = planner.hold_to_budget(data, config, console, given)
    config = config if plan is None else plan.apply(config)
    runtime.prepare(config.runtime.backend)
    from foveate.training.recipe import train as train_run

    finished = train_run(source, config, out, console, plan, clock, restarts=True)
    return _conclude(finished, clock)


def resume_and_judge(folder: Path) -> int | Path:
    """Go on with a run on the backend it was started on, judge and report.

    One that was stopped between its training and its report has only these before it.

    Returns:
        As `train_and_judge`.
    """
    from foveate.planning import planner
    from foveate.runs import Run
    from foveate.scale import runtime
    from foveate.training.clock import Clock

    clock = Clock.of_process()
    run = Run.open(folder)
    if not run.lacks_report():
        run.require_resumable()
    planner.keep_to_processors(run.config())
    runtime.prepare(run.backend)
    if run.lacks_report():
        clock.add(run.status().get("seconds", 0.0))
        return _conclude(run, clock)
    from foveate.training.recipe import resume as resume_run

    return _conclude(resume_run(folder, console, clock, restarts=True), clock)


def _conclude(finished: Any, clock: Any) -> int | Path:
    """Judge a run on its held-out split, and report."""
    from foveate.evaluation.scores import evaluate as judge
    from foveate.evaluation.scores import held_out_split
    from foveate.planning.memory import give_back
    from foveate.report.report import write_report

    folder, state = shlex.quote(str(finished.folder)), finished.status()["state"]
    if state == "restarting":
        return Path(finished.folder)
    if state == "interrupted":
        if finished.model_folder.exists():
            say(f"Judge what there is: foveate evaluate {folder}")
        return 130
    give_back()  # what training has left
    split = held_out_split(finished)
    if split is not None:
        _show_scores(judge(finished, split))
    say(f"Run:    {folder}\nReport: {write_report(finished)}")
    if (budget := finished.config().budget.time) is not None:
        say(f"Time:   {clock.spent:.0f} s of {budget:.0f} s")
    say("\n  ".join(["Next:", *_next_commands(finished, folder)]))
    return 0


def _next_commands(run: Any, folder: str) -> list[str]:
    """What to try with a finished run; its folder is given as a shell reads it."""
    config = run.config()
    files = "TABLE.csv" if config.data.metadata else "IMAGES"
    better = f"search YOUR_DATA --config {folder}/{run.config_path.name}"
    if config.model.backbone == "simple_cnn":
        better = "train YOUR_DATA --model.backbone efficientnet_lite0"
    return [
        f"foveate predict {folder} {files} --out predictions.csv",
        f"foveate evaluate {folder} --split validation",
        f"foveate {better}",
    ]


def judge_again(folder: Path, split: str) -> None:
    """Judge the model of a run on one of its splits."""
    from foveate.runs import Run

    scores = _keras_verb("foveate.evaluation.scores", folder).evaluate(folder, split)
    _show_scores(scores)
    say(f"Written: {Run.open(folder).evaluation_path(scores['split'])}")


def predict_files(
    folder: Path, files: Sequence[Path], out: Path, unreadable: str | None = None
) -> None:
    """Write what the model of a run makes of files; masks go to a folder beside the table."""
    from foveate.disk import replacing
    from foveate.errors import ConfigError, SampleError, listed
    from foveate.runs import Run

    suffix = out.suffix.lower()
    if suffix not in (".csv", ".parquet") or out.is_dir():
        kind = "a folder" if out.is_dir() else repr(str(out))
        raise ConfigError(f"--out must name a .csv or .parquet file, but got {kind}.")
    verb = _keras_verb("foveate.evaluation.predict", folder)
    masks = out.with_name(f"{out.stem}_masks")
    try:
        table = verb.predict(folder, files, masks, unreadable)
    except SampleError as error:
        if (unreadable or Run.open(folder).config().data.unreadable) == "skip":
            raise  # all of them are unreadable
        problem = str(error).rstrip(".")
        raise SampleError(f"{problem}. To predict on the others: --unreadable skip") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as beside:
        table.write_csv(beside) if suffix == ".csv" else table.write_parquet(beside)
    bad = table.filter(table["problem"].is_not_null()) if "problem" in table.columns else table[:0]
    say(f"{table.height - bad.height:,} predictions: {out}")
    if bad.height:
        told = [f"{path} {reason}" for path, reason in bad.select("image", "problem").iter_rows()]
        say(f"Not read: {bad.height:,} (see the column problem): {listed(told)}")


def _keras_verb(module: str, run: Path) -> Any:
    """Import a module that needs Keras, on the backend that the run's settings name."""
    import importlib

    from foveate.runs import Run
    from foveate.scale import runtime

    runtime.prepare(Run.open(run).config().runtime.backend)
    return importlib.import_module(module)


def _show_scores(outcome: dict[str, Any]) -> None:
    """Print the scores of an evaluation as a table."""
    from rich.table import Table

    table = Table(title=f"{outcome['split']} split, {outcome['num_samples']:,} samples")
    table.add_column("score")
    table.add_column("value", justify="right")
    for name, value in outcome["scores"].items():
        table.add_row(name, "n/a" if value is None or value != value else f"{value:.4f}")
    console.print(table)
