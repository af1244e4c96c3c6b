"""What this machine, or the container that it runs in, really has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from foveate.errors import ConfigError


def memory_bytes(root: Path = Path("/")) -> int:
    """Say how much memory there is: that of the machine, or less where the cgroup allows less.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Returns:
        Bytes.
    """
    limits = [psutil.virtual_memory().total]
    for folder in _cgroup_folders("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of version 2 and 1
            limits += _numbers(folder / name)[:1]
    return int(min(limits))


def cpu_count(root: Path = Path("/")) -> int:
    """Say how many processors this process may use: by affinity, and by its cgroup's quota.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Returns:
        At least 1; a quota of one and a half processors counts as 2.
    """
    counts: list[float] = [len(_processors())]
    for folder in _cgroup_folders("cpu", root):
        quota = _numbers(folder / "cpu.max") or [
            *_numbers(folder / "cpu.cfs_quota_us"),
            *_numbers(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and quota[1]:  # microseconds of processor time, in as many of the clock
            counts.append(quota[0] / quota[1])
    return max(math.ceil(min(counts)), 1)


def can_limit_cpus() -> bool:
    """Say whether this system can keep a process to some of its processors, as macOS cannot."""
    return hasattr(psutil.Process, "cpu_affinity")


def limit_cpus(count: int, part: int = 0) -> None:
    """Keep this process, and the threads and processes it starts from now on, to few processors.

    Call it before Keras is imported: threads that run already stay where they are, and libraries
    make as many as they find processors.

    Args:
        count: Number of processors.
        part: Which of the parts of so many, from 0; beyond the last one, counted from 0 again.

    Raises:
        ConfigError: There are fewer, or this system cannot do it.
    """
    available = cpu_count()
    if not 1 <= count <= available:
        raise ConfigError(
            f"budget.cpus must be from 1 to {available}, the processors that this process may "
            f"use, but got {count}."
        )
    if can_limit_cpus():
        processors = _processors()
        first = part % (len(processors) // count) * count
        psutil.Process().cpu_affinity(processors[first : first + count])
    elif count < available:
        raise ConfigError(
            f"budget.cpus needs a system that can keep a process to some of its processors, "
            f"which this one cannot, but got {count}. Leave it out."
        )


def has_bfloat16(root: Path = Path("/")) -> bool:
    """Say whether the processors compute in bfloat16 themselves, as far as the system tells.

    Args:
        root: Where the system's files are.
    """
    try:
        told = (root / "proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line.split() for line in told.splitlines() if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _processors() -> list[int]:
    """List the processors that this process may run on."""
    if can_limit_cpus():
        return sorted(psutil.Process().cpu_affinity())
    return list(range(os.cpu_count() or 1))


def _cgroup_folders(controller: str, root: Path) -> Iterator[Path]:
    """Give the folders that limit this process: its cgroup's, and those of all above it.

    A container often sees a path that holds outside of it alone; what is mounted is its own
    cgroup then, which is why folders that are missing are passed over.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts = ["", "unified"]  # version 2, alone and beside version 1
        elif controller in controllers.split(","):
            mounts = list(dict.fromkeys([controllers, controller]))
        else:
            continue
        place = Path(path.lstrip("/"))
        inside = [] if ".." in place.parts else [place, *place.parents]
        for mount in mounts:
            top = root / "sys/fs/cgroup" / mount
            yield from dict.fromkeys([*(top / folder for folder in inside), top])


def _numbers(path: Path) -> list[int]:
    """Read the numbers of a cgroup's file; "max" and -1 stand for no limit and give none."""
    try:
        words = path.read_text().split()
    except OSError:
        return []
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []
