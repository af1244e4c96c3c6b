"""What the C library does with the memory that training frees."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

from foveate.config.settings import RunConfig

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def settle_allocation(config: RunConfig) -> None:
    """Have a run keep the memory that its steps free, unless memory is what it must save.

    What is kept lies in pieces. How much of it a larger batch can use is then known only once it
    has been tried, and a plan for a stated memory also draws conclusions from smaller batches.

    Args:
        config: The settings of the run.
    """
    if config.budget.ram is None:
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for the next step.

    A step allocates its activations anew and frees them in the end. Left to itself, glibc hands
    large blocks back to the system, which must clear their pages when they are asked for again:
    a sixth to a quarter of the processor time of a step, see `benchmarks.allocation`. In one
    arena, without blocks of their own (mmap), they stay and are used again. What is kept goes
    back with `foveate.planning.memory.give_back`.

    Call it before the backend computes, as threads stay with the arena that they have. Other C
    libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError, OSError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
