"""What it brings that a process keeps the memory which a step of training frees.

A model is trained on one batch, over and over, in processes of their own: with the C library as it
is, and told to keep what is freed, as it is in a run of ours without a stated memory. They take
turns, so that a busy moment of the machine hits both alike; page faults and processor time hardly
depend on it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.fit import compiled_model
from benchmarks.measuring import Table, print_machine
from foveate.scale import runtime
from foveate.scale.allocation import keep_freed_memory

_SIZE = (224, 224)
_WAYS = {"as it is": False, "kept": True}
_FIGURES = ("s/step", "CPU s/step", "faults/step", "peak MiB")


def main() -> None:
    """Measure in turn and print medians; or, as a child, measure one way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--backend", choices=runtime.BACKENDS, default="tensorflow")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of steps in each round")
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        print(json.dumps(_measure(arguments, keeps=_WAYS[arguments.way])))
        return
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow", "jax", "torch")
    print(f"{arguments.backbone} on {arguments.backend}, {arguments.rounds} rounds in turn\n")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
    for _ in range(arguments.rounds):
        for way, rounds in found.items():
            rounds.append(_child(way))
    table = Table("   freed", *_FIGURES)
    for way, rounds in found.items():
        middles = [median(figures[name] for figures in rounds) for name in _FIGURES]
        table.add(way, *(f"{middle:,.{2 if middle < 100 else 0}f}" for middle in middles))
    ratios = [
        usual["s/step"] / kept["s/step"]
        for usual, kept in zip(found["as it is"], found["kept"], strict=True)
    ]
    print(f"\nkept is {median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def _child(way: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.allocation", *sys.argv[1:], "--way", way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measure(arguments: argparse.Namespace, keeps: bool) -> dict[str, float]:
    runtime.own_process()
    runtime.prepare(arguments.backend)
    if keeps:
        keep_freed_memory()
    model, batch = compiled_model(1.0, arguments.backbone), _batch(arguments.batch_size)
    for _ in range(3):  # the first compiles
        model.train_on_batch(*batch)
    began, before, num_steps = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF), 0
    while time.perf_counter() - began < arguments.seconds:
        model.train_on_batch(*batch)
        num_steps += 1
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    faults = after.ru_minflt - before.ru_minflt
    totals = (seconds, computed, faults, num_steps * after.ru_maxrss / 1024)
    return {name: total / num_steps for name, total in zip(_FIGURES, totals, strict=True)}


def _batch(size: int) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, *_SIZE, 3), dtype=np.uint8)
    return {"images": images}, rng.integers(0, 5, size).astype(np.int32)


if __name__ == "__main__":
    main()
