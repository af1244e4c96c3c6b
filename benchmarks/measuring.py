"""What the benchmarks share: taking turns, and the table that says how it went."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

Stream = Callable[[], Generator[int, None, None]]
"""Starts something that yields the number of images in each batch, without an end."""


@dataclass(frozen=True)
class Speed:
    """What one measurement counted.

    Attributes:
        images: How many came.
        seconds: How long it took.
        cpu_seconds: What all threads of the process computed in that time. Other work on the
            machine stretches `seconds`, but hardly this.
    """

    images: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Images in a second."""
        return self.images / self.seconds

    @property
    def cpu_milliseconds(self) -> float:
        """Computing time of one image."""
        return 1000 * self.cpu_seconds / self.images


class Clock:
    """Counts seconds and computing seconds from its making on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._wall

    def speed(self, images: int) -> Speed:
        """Say how fast so many images came."""
        return Speed(images, self.seconds, time.process_time() - self._cpu)


def loader_stream(loader: Any) -> Stream:
    """Stream a `BatchLoader` of ours, epoch after epoch, and free its queue in the end."""

    def stream() -> Generator[int, None, None]:
        try:
            for _, targets in chain.from_iterable(repeat(loader)):
                yield len(targets)
        finally:
            loader.close()

    return stream


def measure_stream(stream: Stream, seconds: float) -> Speed:
    """Count what a stream gives once it flows.

    Whoever starts, and fills or leaves behind a queue, works for batches that are not counted; so
    all flow for a while first. Each batch is taken as soon as it is there, hence nothing waits in
    a queue when the count begins.

    Args:
        stream: What to measure; closed afterwards.
        seconds: How long to count, at least one batch; a quarter of it flows by before.

    Returns:
        Its speed.
    """
    batches, start = stream(), Clock()
    while start.seconds < seconds / 4:
        next(batches)
    images, clock = 0, Clock()
    while clock.seconds < seconds:
        images += next(batches)
    speed = clock.speed(images)
    batches.close()
    return speed


def take_turns(
    contestants: Mapping[str, Callable[[], Speed]], rounds: int
) -> dict[str, list[Speed]]:
    """Measure all in turn, again and again: a busy moment of the machine then hits all alike.

    Args:
        contestants: Name to what measures it.
        rounds: How often, after a first one that only warms up.

    Returns:
        Name to its speed in each round.
    """
    speeds: dict[str, list[Speed]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, measure in contestants.items():
            speed = measure()
            if turn > 0:
                speeds[name].append(speed)
    return speeds


def print_ratios(speeds: Mapping[str, Sequence[Speed]], ours: str) -> None:
    """Print medians over the rounds, and how ours compares within each round.

    Args:
        speeds: Name to the speeds of each round.
        ours: The name that all are compared with.
    """
    width = max(map(len, speeds))
    print(f"{'':{width}}  images/s  CPU ms/image  {ours} / this (lowest to highest round)")
    for name, rounds in speeds.items():
        pairs = zip(speeds[ours], rounds, strict=True)
        ratios = [mine.per_second / other.per_second for mine, other in pairs]
        print(
            f"{name:{width}}  {median(speed.per_second for speed in rounds):8,.0f}  "
            f"{median(speed.cpu_milliseconds for speed in rounds):12.2f}  "
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


class Table:
    """Prints a line at a time, so that what is known is seen while the rest is measured.

    Args:
        headings: Of the columns; each is as wide as its heading, the last as its longest cell.
    """

    def __init__(self, *headings: str) -> None:
        self._widths = [len(heading) for heading in headings]
        self.add(*headings)

    def add(self, *cells: str) -> None:
        """Print a line."""
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True)]
        print("  ".join([*padded[:-1], cells[-1]]).rstrip(), flush=True)


def number(value: float | None, form: str) -> str:
    """Format a number for a table; a dash where there is none."""
    return "-" if value is None else format(value, form)


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
