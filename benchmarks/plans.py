"""Whether a run keeps to its memory, and whether its plan was right.

`foveate train` runs with a stated memory for every dataset, backbone and budget. Its memory is
sampled from outside, from its start to its end, children included, and so the trial that the plan
is made from: what one process has resident, of several the share of each (PSS). Libraries that
strangers have loaded too count there in part, so the machine should have nothing else to do.
Planned and real time are those from the end of the trial to the end of the run.

With --hard each process gets a limit of the kernel as well, at the budget. The default is
RLIMIT_DATA through `prlimit` (util-linux), the fair one of those that need no rights: it counts
what a process may write to, filled or not, which was some 0.15 GiB more than a run with TensorFlow
had resident. Beyond it allocations fail, which lets TensorFlow hang rather than end: --longest
says when to give up. RLIMIT_AS counts reserved addresses too, 3.9 GiB where 1.5 GiB were resident.
Where systemd rules, a cgroup can limit the processes together:
--hard 'systemd-run --user --scope -p MemoryMax={bytes} -p MemorySwapMax=0'.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import Table, number, print_machine
from benchmarks.running import (
    EVERY,
    Dataset,
    Outcome,
    add_arguments,
    chosen,
    model_settings,
    place,
    train,
)
from foveate.config.settings import BudgetConfig
from foveate.runs import Run

_GIB = 1024**3
_NEAR = 0.15
"""A plan is right where the real figure is no further from it than this share."""
_HIGHER = 1.002
"""What several processes share is taken off whenever they have so many times as much resident as
ever before."""
_HEADINGS = (
    *("  dataset", "          backbone", " budget", "batch"),
    *("planned GiB", "real GiB", "own GiB", "trial GiB", "real/planned"),
    *("planned s", "error", "real s", "real/planned", "verdict"),
)


class Gauge:
    """The memory of a run, sampled from outside.

    What has a child before the run folder is there is the trial.

    Args:
        out: The run folder.

    Attributes:
        trial_bytes: The most that was seen while the trial went on, the process that waits for
            it included.
        run_bytes: The most that was seen before and after.
        trial_end: When the trial was seen last, by `time.perf_counter`; 0 without one.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._resident = 0.0
        self.trial_bytes = self.run_bytes = 0
        self.trial_end = 0.0

    def __call__(self, process: Any) -> None:
        """Take a sample."""
        tree = [process, *process.children(recursive=True)]
        if len(tree) > 1 and not self._out.exists():
            self.trial_end = time.perf_counter()
            self.trial_bytes = max(self.trial_bytes, self._bytes(tree))
        else:
            self.run_bytes = max(self.run_bytes, self._bytes(tree))

    def _bytes(self, tree: Sequence[Any]) -> int:
        """Memory of processes; 0 where it surely was higher before."""
        resident = sum(_resident_bytes(one) for one in tree)
        if len(tree) == 1:
            return resident
        if resident <= _HIGHER * self._resident:
            return 0
        # To ask what is shared stops a process for 40 ms; asked at every look, steps took a fifth
        # longer.
        self._resident = resident
        return sum(_own_bytes(one) for one in tree)


@dataclass(frozen=True)
class Figures:
    """What a run should have taken, and took.

    Attributes:
        limit: Bytes of the budget.
        gauge: What was seen from outside.
        outcome: How the run ended.
        seconds: From the end of its trial.
        plan: What ``plan.json`` holds; empty where there is none.
        own_bytes: The peak that the run tells itself; None where it tells none.
    """

    limit: int
    gauge: Gauge
    outcome: Outcome
    seconds: float
    plan: dict[str, Any]
    own_bytes: int | None

    @property
    def is_under(self) -> bool:
        """Whether the run and its trial kept to the budget."""
        return max(self.gauge.run_bytes, self.gauge.trial_bytes) <= self.limit

    @property
    def memory_ratio(self) -> float | None:
        """Real peak over planned."""
        return self.gauge.run_bytes / self.plan["peak_bytes"] if self.plan else None

    @property
    def time_ratio(self) -> float | None:
        """Real time over planned."""
        planned = self.plan.get("total_seconds")
        return self.seconds / planned if planned else None

    @property
    def verdict(self) -> str:
        """What to say of it."""
        return self.outcome.problem or ("under" if self.is_under else "over")


def main() -> None:
    """Run all, a line each as it ends."""
    arguments = _arguments()
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow", "psutil")
    print(f"memory sampled every {EVERY} s; hard limit: {arguments.hard or 'none'}\n")
    table, all_figures = Table(*_HEADINGS), []
    with place(arguments) as folder:
        each = product(chosen(arguments, folder), arguments.backbones, arguments.budgets)
        for dataset, backbone, budget in each:
            figures = _run(dataset, backbone, budget, arguments, folder)
            table.add(dataset.name, backbone.partition(":")[0], budget, *_cells(figures))
            all_figures.append(figures)
    _sum_up(all_figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["mobilenet_v3_small:none", "efficientnet_lite0"],
        metavar="NAME[:WEIGHTS]",
        help="with model.weights behind the colon; Keras would download those of mobilenet",
    )
    budgets = ["1.5GiB", "2GiB", "3GiB", "4GiB"]
    parser.add_argument("--budgets", nargs="+", default=budgets, metavar="SIZE")
    parser.add_argument("--epochs", type=int, default=2, help="frozen, or from scratch")
    parser.add_argument("--fine-tune-epochs", type=int, default=1)
    parser.add_argument(
        "--hard",
        nargs="?",
        const="prlimit --data={bytes}",
        metavar="COMMAND",
        help="limit the processes as well: a command that starts another",
    )
    return parser.parse_args()


def _run(
    dataset: Dataset, backbone: str, budget: str, arguments: argparse.Namespace, folder: Path
) -> Figures:
    settings = {**model_settings(backbone), "budget.ram": budget}
    settings["recipe.epochs"] = str(arguments.epochs)
    if settings["model.weights"] != "none":
        settings["recipe.fine_tune_epochs"] = str(arguments.fine_tune_epochs)
    limit = int(BudgetConfig.model_validate({"ram": budget}).ram or 0)
    before = shlex.split((arguments.hard or "").format(bytes=limit))
    out = folder / f"{dataset.name}-{settings['model.backbone']}-{budget}"
    gauge = Gauge(out)
    start = time.perf_counter()
    outcome = train(dataset, settings, out, arguments.longest, before, gauge)
    seconds = start + outcome.seconds - max(gauge.trial_end, start)
    run = Run(out)
    plan = run.load_json(run.plan_path) if run.plan_path.exists() else {}
    status = run.status() if run.status_path.exists() else {}
    return Figures(limit, gauge, outcome, seconds, plan, status.get("peak_memory_bytes"))


def _resident_bytes(process: Any) -> int:
    """Resident memory of a process; 0 where it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _own_bytes(process: Any) -> int:
    """Memory of a process, of what n processes share an n-th; 0 where it has ended."""
    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "pss", memory.uss))  # Linux has the former


def _cells(figures: Figures) -> list[str]:
    plan, gauge = figures.plan, figures.gauge
    sizes = (plan.get("peak_bytes"), gauge.run_bytes, figures.own_bytes, gauge.trial_bytes)
    return [
        number(plan.get("batch_size"), "d"),
        *(number(size and size / _GIB, ".2f") for size in sizes),
        number(figures.memory_ratio, ".2f"),
        number(plan.get("total_seconds"), ".0f"),
        number(plan.get("error"), ".0%"),
        number(figures.seconds, ".0f"),
        number(figures.time_ratio, ".2f"),
        figures.verdict,
    ]


def _sum_up(all_figures: Sequence[Figures]) -> None:
    ended = [figures for figures in all_figures if not figures.outcome.problem]
    near = {
        "peak memory": [figures.memory_ratio for figures in ended],
        "time": [figures.time_ratio for figures in ended],
    }
    print(f"\n{len(ended)} of {len(all_figures)} runs ended with a model,", end=" ")
    print(f"{sum(figures.is_under for figures in ended)} of them stayed under their budget")
    for what, ratios in near.items():
        right = sum(ratio is not None and abs(ratio - 1) <= _NEAR for ratio in ratios)
        print(f"{what} within {_NEAR:.0%} of the plan in {right} of {len(ended)}")


if __name__ == "__main__":
    main()
