"""What the benchmarks share: taking turns, and the table that says how it went."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

Stream = Callable[[], Generator[int, None, None]]
"""Starts something that yields the number of images in each batch, without an end."""


def images_per_second(stream: Stream, seconds: float) -> float:
    """Count what a stream gives from its start on, so that nothing read ahead comes for free.

    Args:
        stream: What to measure; closed afterwards.
        seconds: How long, at least one batch.

    Returns:
        Images in a second.
    """
    batches = stream()
    images, elapsed, started = 0, 0.0, time.perf_counter()
    while elapsed < seconds:
        images += next(batches)
        elapsed = time.perf_counter() - started
    batches.close()
    return images / elapsed


def take_turns(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Measure all in turn, again and again: a busy moment of the machine then hits all alike.

    Args:
        contestants: Name to what measures images in a second.
        rounds: How often, after a first one that only warms up.

    Returns:
        Name to images in a second, one value a round.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, measure in contestants.items():
            rate = measure()
            if turn > 0:
                rates[name].append(rate)
    return rates


def print_ratios(rates: Mapping[str, Sequence[float]], ours: str) -> None:
    """Print medians over the rounds, and how our rate compares within each round.

    Args:
        rates: Name to images in a second, one value a round.
        ours: The name that the others are compared with.
    """
    width = max(map(len, rates))
    print(f"{'':{width}}  images/s  {ours} is times this (lowest to highest round)")
    for name, values in rates.items():
        ratios = [mine / value for mine, value in zip(rates[ours], values, strict=True)]
        print(
            f"{name:{width}}  {statistics.median(values):8,.0f}  "
            f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def print_machine(*packages: str) -> None:
    """Print the processor and the versions that the numbers belong to.

    Args:
        packages: Distributions; those not installed are left out.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{_processor()}, {cores} cores, Python {platform.python_version()}")
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    print(", ".join(found))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
