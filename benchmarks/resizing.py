"""What a run saves that begins with smaller images, and what it loses.

`foveate train` runs with 1, 2, 3 and 4 image sizes and the same epochs, on the same splits, which
change with the seed; one after the other, each in a process of its own. Times are of whole
processes, start, frozen stage and judging included: state few epochs of the frozen stage, and the
rest is what is compared. Computing seconds hold steadier than seconds on a busy machine.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.measuring import Table, number, print_machine
from benchmarks.running import Dataset, add_arguments, chosen, model_settings, place, score, train
from foveate.data.splits import assign_splits
from foveate.runs import Run

_HEADINGS = ("  dataset", "seed", "tested", "sizes", "seconds", "CPU s", "peak MiB", "score")


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
    frozen, tuned = arguments.epochs
    print(f"{arguments.backbone}: {frozen} epochs frozen, {tuned} of fine-tuning\n")
    table = Table(*_HEADINGS, "problem")
    results: dict[str, dict[int, list[_Figures | None]]] = {}
    with place(arguments) as folder:
        for dataset in chosen(arguments, folder):
            found = results[dataset.name] = {number: [] for number in arguments.sizes}
            for seed in arguments.seeds:
                manifest = assign_splits(dataset.read(), dataset.config.data.splits, seed)
                divided = dataset.written(manifest, folder / f"{dataset.name}-{seed}.csv")
                tested = manifest.split("test").num_samples
                for sizes in arguments.sizes:
                    cells = dataset.name, str(seed), str(tested), str(sizes)
                    figures = _run(divided, seed, sizes, arguments, folder, table, cells)
                    found[sizes].append(figures)
    for name, found in results.items():
        _compare(name, found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--backbone", default="efficientnet_lite0", metavar="NAME[:WEIGHTS]")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs=2, default=[5, 5], help="frozen, fine-tuned")
    return parser.parse_args()


def _run(
    dataset: Dataset,
    seed: int,
    sizes: int,
    arguments: argparse.Namespace,
    folder: Path,
    table: Table,
    cells: tuple[str, ...],
) -> _Figures | None:
    frozen, tuned = arguments.epochs
    settings = {
        **model_settings(arguments.backbone),
        "seed": str(seed),
        "recipe.epochs": str(frozen),
        "recipe.fine_tune_epochs": str(tuned),
        "recipe.image_sizes": str(sizes),
    }
    computed = [0.0]

    def watch(process: Any) -> None:
        times = process.cpu_times()
        computed[0] = times.user + times.system

    out = folder / f"{dataset.name}-{seed}-{sizes}"
    outcome = train(dataset, settings, out, arguments.longest, watch=watch)
    if outcome.problem:
        table.add(*cells, f"{outcome.seconds:.0f}", "-", "-", "-", outcome.problem)
        return None
    figures = _Figures(outcome.seconds, computed[0], score(out))
    peak = Run(out).status()["peak_memory_bytes"] / 1024**2
    texts = f"{figures.seconds:.0f}", f"{figures.cpu_seconds:.0f}", f"{peak:,.0f}"
    table.add(*cells, *texts, number(figures.score, ".3f"), "")
    return figures


def _compare(name: str, found: dict[int, list[_Figures | None]]) -> None:
    print(f"\n{name}: median share of the time with one size; mean score over seeds")
    for sizes, runs in found.items():
        pairs = [(one, whole) for one, whole in zip(runs, found[1], strict=True) if one and whole]
        if not pairs:
            print(f"{sizes} sizes: nothing to compare")
            continue
        shares = median(one.seconds / whole.seconds for one, whole in pairs)
        computed = median(one.cpu_seconds / whole.cpu_seconds for one, whole in pairs)
        scores = mean(one.score for one, _ in pairs), mean(whole.score for _, whole in pairs)
        print(
            f"{sizes} sizes: {shares:.2f} of the seconds, {computed:.2f} of the CPU seconds, "
            f"score {scores[0]:.3f} ({scores[0] - scores[1]:+.3f})"
        )


if __name__ == "__main__":
    main()
