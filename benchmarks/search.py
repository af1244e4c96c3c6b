"""What a search wins and costs: strategies, early ends, features that trials share.

``strategies``: the same space by each strategy, one worker; the best score beside that of the
default settings. ``pruning``: the same trials of a small network, with and without early ends;
time and best score.
``features``: head-only trials of a search, which find each other's features, beside the same runs
each with a cache of its own. All scores are of the validation split.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.running import Dataset, add_arguments, chosen, place
from foveate.search.outcome import StudyRecord, read_study
from foveate.search.study import StudyFolder

_HEAD = {
    "recipe.fine_tune_epochs": "0",
    "recipe.epochs": "20",
    "search.space.recipe.learning_rate": "1e-4..3e-2 log",
    "search.space.model.dropout": "0..0.6",
    "search.space.recipe.loss.label_smoothing": "0..0.2",
}
_GRID = {
    **_HEAD,
    "search.space.recipe.learning_rate": "0.0003,0.001,0.003,0.01,0.03",
    "search.space.model.dropout": "0.0,0.2",
    "search.space.recipe.loss.label_smoothing": "0.0,0.1",
}
_SCRATCH = {
    "model.backbone": "simple_cnn",
    "recipe.epochs": "20",
    "search.space.recipe.learning_rate": "1e-5..3e-1 log",
    "search.space.recipe.optimizer": "adamw,sgd",
    "search.space.model.dropout": "0..0.6",
}


def main() -> None:
    """Make the searches that are asked for, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("strategies", "pruning", "features"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of `pruning`")
    parser.add_argument(
        "--pruning", nargs="+", default=["median", "asha", "hyperband"], help="of `pruning`"
    )
    parser.add_argument(
        "--independent", type=int, default=3, help="runs without shared features, of `features`"
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    compare = {"strategies": _strategies, "pruning": _pruning, "features": _features}
    with place(arguments) as folder:
        for dataset in chosen(arguments, folder):
            compare[arguments.what](dataset, arguments, folder)


def _strategies(dataset: Dataset, arguments: argparse.Namespace, folder: Path) -> None:
    for strategy in ("grid", "random", "bayesian", "gaussian_process"):
        settings = _GRID if strategy == "grid" else _HEAD
        trials = "none" if strategy == "grid" else str(arguments.trials)
        flags = {**settings, "search.strategy": strategy, "search.trials": trials}
        record, seconds = _search(dataset, flags, folder / f"{dataset.name}-{strategy}")
        print(f"{dataset.name} {strategy}: {_scores(record)}, {seconds:.0f} s", flush=True)


def _pruning(dataset: Dataset, arguments: argparse.Namespace, folder: Path) -> None:
    for seed in arguments.seeds:
        taken = {}
        for pruning in ("none", *arguments.pruning):
            flags = {
                **_SCRATCH,
                "seed": str(seed),
                "search.pruning": pruning,
                "search.trials": str(arguments.trials),
            }
            out = folder / f"{dataset.name}-{pruning}-{seed}"
            record, taken[pruning] = _search(dataset, flags, out)
            share = taken[pruning] / taken["none"]
            print(
                f"{dataset.name}, seed {seed}, {pruning}: {_scores(record)}, "
                f"{taken[pruning]:.0f} s, {share:.2f} of the time",
                flush=True,
            )


def _features(dataset: Dataset, arguments: argparse.Namespace, folder: Path) -> None:
    flags = {**_HEAD, "search.strategy": "random", "search.trials": str(arguments.trials)}
    flags["search.pruning"] = "none"
    record, seconds = _search(dataset, flags, folder / f"{dataset.name}-shared")
    shared = [one.cost.seconds for one in record.counted if one.cost.seconds is not None]
    alone = []
    for number in range(arguments.independent):
        out = folder / f"{dataset.name}-alone-{number}"
        alone_flags = {**flags, "search.trials": "1", "seed": str(number)}
        one, _ = _search(dataset, alone_flags, out)
        alone += [trial.cost.seconds or 0.0 for trial in one.counted]
    whole = len(shared) * statistics.median(alone)
    print(
        f"{dataset.name}: {len(shared)} trials in {seconds:.0f} s ({sum(shared):.0f} s in trials; "
        f"first {shared[0]:.0f} s, then {statistics.median(shared[1:]):.0f} s each); alone "
        f"{statistics.median(alone):.0f} s each, {whole:.0f} s in all: "
        f"{whole / sum(shared):.1f} times as long"
    )


def _search(dataset: Dataset, settings: dict[str, str], out: Path) -> tuple[StudyRecord, float]:
    """Search with a cache of its own, so that nothing is found of what came before."""
    flags = [
        part for key, value in {**dataset.settings, **settings}.items()
        for part in (f"--{key}", value)
    ]  # fmt: skip
    command: Sequence[str] = [
        sys.executable, "-m", "foveate", "search", dataset.source, "--out", str(out), *flags,
    ]  # fmt: skip
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="foveate-cache-") as cache:
        environment = {**os.environ, "FOVEATE_CACHE": cache}
        with out.with_suffix(".log").open("wb") as log:
            subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True
            )
    return read_study(StudyFolder(out).load()), time.monotonic() - began


def _scores(record: StudyRecord) -> str:
    best, baseline = record.best, record.baseline
    if best is None or baseline is None or baseline.score is None:
        return "no score"
    ended = sum(one.outcome == "pruned" for one in record.counted)
    return (
        f"{len(record.counted)} trials, {ended} ended early, best {record.objective} "
        f"{best.score:.4f} (trial {best.number}), default settings {baseline.score:.4f}"
    )


if __name__ == "__main__":
    main()
