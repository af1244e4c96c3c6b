"""How much faster a frozen stage is whose features are computed once, and what it costs.

Both ways train the head of EfficientNet-Lite0 for 20 epochs and fine-tune for a few, in turn, with
each seed, each in a process of its own, as the command has it. The time is that of the frozen
stage: all epochs, and the computing of the features.

    python -m benchmarks.frozen table.csv --data.metadata age,sex
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest import mock

from benchmarks.measuring import print_machine


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="what `foveate train` takes")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--fine-tune-epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, default=1)
    options, rest = parser.parse_known_args()

    from foveate.config.files import split_tokens

    _, settings = split_tokens(rest)
    settings |= {
        "recipe.epochs": str(options.epochs),
        "recipe.fine_tune_epochs": str(options.fine_tune_epochs),
    }
    print_machine("keras", "tensorflow", "tensorflow-cpu", "foveate")
    print(f"{'seed':>4} {'views':>5} {'frozen stage':>12} {'validation':>10} {'test':>6}")
    found: dict[int, list[tuple[float, float, float]]] = {options.views: [], 0: []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            os.environ["FOVEATE_CACHE"] = f"{folder}/cache-{seed}"  # nothing is found of others
            for views, outcomes in found.items():
                stated = {**settings, "seed": str(seed), "recipe.frozen_views": str(views)}
                out = Path(folder, f"{seed}-{views}")
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    outcome = process.submit(measure, options.data, stated, out).result()
                outcomes.append(outcome[:3])
                print(
                    f"{seed:>4} {views:>5} {outcome[0]:>10.1f} s {outcome[1]:>10.3f} "
                    f"{outcome[2]:>6.3f}",
                    flush=True,
                )
    ratios = [slow[0] / fast[0] for fast, slow in zip(*found.values(), strict=True)]
    print(f"computed once: {median(ratios):.1f} times faster ({min(ratios):.1f} to "
          f"{max(ratios):.1f})")  # fmt: skip
    once, anew = (mean(outcome[1] for outcome in outcomes) for outcomes in found.values())
    error = math.sqrt(anew * (1 - anew) / outcome[3])
    print(
        f"validation accuracy: {once:.3f} instead of {anew:.3f}; one standard error of "
        f"{outcome[3]} samples is {error:.3f}"
    )


def measure(data: str, settings: dict[str, str], out: Path) -> tuple[float, float, float, int]:
    """Train once, in this process, which is to do nothing else.

    Returns:
        Seconds of the frozen stage; accuracy on the validation and on the test split; samples of
        the validation split.
    """
    from foveate.config.files import load_config
    from foveate.scale import runtime

    runtime.own_process()
    runtime.prepare("auto")
    from foveate.evaluation.scores import evaluate
    from foveate.training.recipe import train

    with stopwatch() as seconds:
        run = train(data, load_config(None, settings), out)
    validation, test = (evaluate(run, split) for split in ("validation", "test"))
    return (
        seconds["frozen"],
        validation["scores"]["accuracy"],
        test["scores"]["accuracy"],
        validation["num_samples"],
    )


@contextlib.contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Take the time of each stage, with all that is made ready for it."""
    from foveate.training.feeding import feeding

    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(work: Any, index: int, stages: Any, images: Any) -> Iterator[Any]:
        started = time.perf_counter()
        with feeding(work, index, stages, images) as feed:
            yield feed
        seconds[stages[index].name] = time.perf_counter() - started

    with mock.patch("foveate.training.recipe.feeding", timed):
        yield seconds


if __name__ == "__main__":
    main()
