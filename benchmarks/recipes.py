"""What a recipe takes and brings, compared with another: image sizes, unfrozen layers, anything.

`foveate train` runs with one recipe after the other, on the same splits, which change with the
seed; each in a process of its own. Times are of whole processes, start, frozen stage and judging
included: state few epochs of the frozen stage, and the rest is what is compared. Computing seconds
hold steadier than seconds on a busy machine.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.measuring import Table, number, print_machine
from benchmarks.running import Dataset, add_arguments, chosen, model_settings, place, score, train
from foveate.config.files import split_tokens
from foveate.data.splits import assign_splits
from foveate.runs import Run

_HEADINGS = ("  dataset", "seed", "tested", "recipe", "seconds", "CPU s", "peak MiB", "score")


@dataclass(frozen=True)
class _Figures:
    """What a run took, and what became of it."""

    seconds: float
    cpu_seconds: float
    score: float


def main() -> None:
    """Run all, a line each as it ends; then compare."""
    arguments = _arguments()
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow")
    recipes = dict(enumerate(arguments.recipe, start=1))
    print(arguments.backbone)
    for index, recipe in recipes.items():
        print(f"recipe {index}: {', '.join(f'{key} {value}' for key, value in recipe.items())}")
    print()
    table = Table(*_HEADINGS, "problem")
    results: dict[str, dict[int, list[_Figures | None]]] = {}
    with place(arguments) as folder:
        for dataset in chosen(arguments, folder):
            found = results[dataset.name] = {index: [] for index in recipes}
            for seed in arguments.seeds:
                manifest = assign_splits(dataset.read(), dataset.config.data.splits, seed)
                divided = dataset.written(manifest, folder / f"{dataset.name}-{seed}.csv")
                tested = manifest.split("test").num_samples
                settings = {**model_settings(arguments.backbone), "seed": str(seed)}
                for index, recipe in recipes.items():
                    out = folder / f"{dataset.name}-{seed}-{index}"
                    cells = dataset.name, str(seed), str(tested), str(index)
                    figures = _run(
                        divided, settings | recipe, out, arguments.longest, table, cells
                    )
                    found[index].append(figures)
    for name, found in results.items():
        _compare(name, found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--backbone", default="efficientnet_lite0", metavar="NAME[:WEIGHTS]")
    parser.add_argument(
        "--recipe",
        type=_recipe,
        action="append",
        required=True,
        metavar="'FLAGS'",
        help="flags of foveate train; given several times, all are compared with the first",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def _recipe(text: str) -> dict[str, str]:
    words, settings = split_tokens(shlex.split(text))
    if words or not settings:
        raise argparse.ArgumentTypeError(f"{text!r} must be flags of foveate train, and no more")
    return settings


def _run(
    dataset: Dataset,
    settings: Mapping[str, str],
    out: Path,
    longest: float,
    table: Table,
    cells: tuple[str, ...],
) -> _Figures | None:
    computed = [0.0]

    def watch(process: Any) -> None:
        times = process.cpu_times()
        computed[0] = times.user + times.system

    outcome = train(dataset, settings, out, longest, watch=watch)
    if outcome.problem:
        table.add(*cells, f"{outcome.seconds:.0f}", "-", "-", "-", outcome.problem)
        return None
    figures = _Figures(outcome.seconds, computed[0], score(out))
    peak = Run(out).status()["peak_memory_bytes"] / 1024**2
    texts = f"{figures.seconds:.0f}", f"{figures.cpu_seconds:.0f}", f"{peak:,.0f}"
    table.add(*cells, *texts, number(figures.score, ".3f"), "")
    return figures


def _compare(name: str, found: Mapping[int, list[_Figures | None]]) -> None:
    print(f"\n{name}: median share of the time with recipe 1; mean score over seeds")
    for index, runs in found.items():
        pairs = [(one, first) for one, first in zip(runs, found[1], strict=True) if one and first]
        if not pairs:
            print(f"recipe {index}: nothing to compare")
            continue
        shares = median(one.seconds / first.seconds for one, first in pairs)
        computed = median(one.cpu_seconds / first.cpu_seconds for one, first in pairs)
        scores = mean(one.score for one, _ in pairs), mean(first.score for _, first in pairs)
        print(
            f"recipe {index}: {shares:.2f} of the seconds, {computed:.2f} of the CPU seconds, "
            f"score {scores[0]:.3f} ({scores[0] - scores[1]:+.3f})"
        )


if __name__ == "__main__":
    main()
