"""Whether the same wall-clock time gives a better model than a script that people paste.

The script (`benchmarks/pasted.py`) runs to its own end first; the time that it took, from the
start of the process to its end, is Foveate's `budget.time`, once whole and once a third. All train
the same backbone from the same weights on the same splits, which change with the seed, and are
judged on the same test rows; one after the other, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.measuring import Table, number, print_machine
from benchmarks.running import (
    Dataset,
    Outcome,
    add_arguments,
    chosen,
    place,
    run,
    score,
    train,
)
from foveate.data.splits import assign_splits

_SCRIPT = "plain script"
_SHARES = {"foveate": 1.0, "foveate, a third": 1 / 3}
"""What Foveate gets of the script's time."""
_SIZE = (224, 224)  # where none is stated
_HEADINGS = ("  dataset", "seed", "tested", "             who")
_FIGURES = ("budget s", "taken s", "accuracy", "problem")


def main() -> None:
    """Let all train, a line each as it ends; then compare."""
    arguments = _arguments()
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow")
    frozen, tuned = arguments.epochs
    print(f"{arguments.backbone}; {_SCRIPT}: {frozen} epochs frozen, {tuned} of fine-tuning\n")
    table = Table(*_HEADINGS, *_FIGURES)
    results = {}
    with place(arguments) as folder:
        for dataset in chosen(arguments, folder):
            results[dataset.name] = [
                _compete(dataset, seed, arguments, folder, table) for seed in arguments.seeds
            ]
    for name, contests in results.items():
        _compare(name, contests)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=[5, 5], help="of the script: frozen, fine-tuned"
    )
    return parser.parse_args()


def _compete(
    dataset: Dataset, seed: int, arguments: argparse.Namespace, folder: Path, table: Table
) -> dict[str, float | None]:
    """Train all on the same splits, and give the accuracy of each; None where one failed."""
    manifest = assign_splits(dataset.read(), dataset.config.data.splits, seed)
    divided = dataset.written(manifest, folder / f"{dataset.name}-{seed}.csv")
    num_tested = manifest.split("test").num_samples
    size = dataset.config.data.image_size or _SIZE
    accuracies: dict[str, float | None] = {}

    def tell(who: str, budget: float | None, outcome: Outcome, accuracy: float | None) -> None:
        accuracies[who] = accuracy
        figures = (number(budget, ".0f"), f"{outcome.seconds:.0f}", number(accuracy, ".3f"))
        table.add(dataset.name, str(seed), str(num_tested), who, *figures, outcome.problem)

    script, accuracy = _run_script(divided.source, size, seed, arguments)
    if accuracy is not None:  # of Keras, in single precision: the share of rows it stands for
        accuracy = round(accuracy * num_tested) / num_tested
    tell(_SCRIPT, None, script, accuracy)
    settings = {"model.backbone": arguments.backbone, "seed": str(seed)}
    settings["data.image_size"] = f"{size[0]},{size[1]}"
    for who, share in ({} if script.problem else _SHARES).items():
        budget = share * script.seconds
        settings["budget.time"] = f"{budget:.1f}"
        out = folder / f"{dataset.name}-{seed}-{'third' if share < 1 else 'whole'}"
        outcome = train(divided, settings, out, arguments.longest)
        tell(who, budget, outcome, None if outcome.problem else score(out))
    return accuracies


def _run_script(
    source: str, size: tuple[int, int], seed: int, arguments: argparse.Namespace
) -> tuple[Outcome, float | None]:
    written = Path(source).with_suffix(".json")
    command = [sys.executable, "-m", "benchmarks.pasted", source, str(written)]
    command += ["--backbone", arguments.backbone, "--seed", str(seed)]
    command += ["--size", *map(str, size), "--epochs", *map(str, arguments.epochs)]
    outcome = run(command, Path(f"{written}.log"), arguments.longest)
    if outcome.problem:
        return outcome, None
    return outcome, float(json.loads(written.read_text())["accuracy"])


def _compare(name: str, contests: Sequence[dict[str, float | None]]) -> None:
    print(f"\n{name}, median accuracy over {len(contests)} seeds")
    for who in (_SCRIPT, *_SHARES):
        pairs = [(contest.get(who), contest[_SCRIPT]) for contest in contests]
        known = [
            (mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None
        ]
        middle = median(mine for mine, _ in known) if known else None
        line = f"{who:>16}  {number(middle, '.3f')}"
        if who != _SCRIPT:
            reached = sum(mine >= theirs for mine, theirs in known)
            line += f", at least the script's in {reached} of {len(contests)}"
        print(line)


if __name__ == "__main__":
    main()
