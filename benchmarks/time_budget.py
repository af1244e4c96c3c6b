"""Whether a run with a stated time ends within it, and uses it.

`foveate train` runs with `budget.time`; what it took is the time of its process, from outside. Why
a stage ended is what the run itself has written.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import product
from pathlib import Path

from benchmarks.measuring import Table, number, print_machine
from benchmarks.running import Dataset, add_arguments, chosen, model_settings, place, score, train
from foveate.config.settings import BudgetConfig
from foveate.runs import Run

_ENOUGH = 0.9
"""Share of the budget that is to be used, unless training ended early for a stated reason."""
_TIME_WAS_UP = "its time was up"
_HEADINGS = (
    *("  dataset", "          backbone", "seed", "budget", "taken s", "share", "score"),
    *("          verdict", "epochs of each stage (why it ended)"),
)


def main() -> None:
    """Run all, a line each as it ends."""
    arguments = _arguments()
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow")
    print()
    table, verdicts = Table(*_HEADINGS), Counter[str]()
    with place(arguments) as folder:
        datasets = chosen(arguments, folder)
        each = product(datasets, arguments.backbones, arguments.budgets, arguments.seeds)
        for dataset, backbone, budget, seed in each:
            cells = _run(dataset, backbone, budget, seed, arguments.longest, folder)
            table.add(dataset.name, backbone.partition(":")[0], str(seed), budget, *cells)
            verdicts[cells[-2]] += 1
    print("\n" + ", ".join(f"{verdict}: {count}" for verdict, count in verdicts.items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--backbones", nargs="+", default=["efficientnet_lite0"], metavar="NAME[:WEIGHTS]"
    )
    parser.add_argument("--budgets", nargs="+", default=["2m", "5m", "10m"], metavar="TIME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args()


def _run(
    dataset: Dataset, backbone: str, budget: str, seed: int, longest: float, folder: Path
) -> list[str]:
    """Train, and give the cells from the time that was taken on."""
    allowed = float(BudgetConfig.model_validate({"time": budget}).time or 0)
    settings = {**model_settings(backbone), "budget.time": budget, "seed": str(seed)}
    out = folder / f"{dataset.name}-{settings['model.backbone']}-{budget}-{seed}"
    outcome = train(dataset, settings, out, longest)
    share = outcome.seconds / allowed
    reached = None if outcome.problem else score(out)
    figures = [f"{outcome.seconds:.1f}", f"{share:.0%}", number(reached, ".3f")]
    if outcome.problem:
        return [*figures, "failed", outcome.problem]
    ends = _ends(Run(out))
    told = ", ".join(f"{stage} {count} ({why})" for stage, (count, why) in ends.items())
    return [*figures, _verdict(share, [why for _, why in ends.values()]), told]


def _ends(run: Run) -> dict[str, tuple[int, str]]:
    """Number of epochs of each stage, and why it ended."""
    return {
        record["stage"]: (record["epoch"], record.get("ended", "no reason told"))
        for record in run.history()  # the last of a stage counts
    }


def _verdict(share: float, reasons: list[str]) -> str:
    if share > 1:
        return "over"
    if share >= _ENOUGH:
        return "kept and used"
    return "left unused" if reasons[-1] == _TIME_WAS_UP else "ended for a reason"


if __name__ == "__main__":
    main()
