"""The memory of this process, now and at its highest."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil


def resident_bytes() -> int:
    """Tell how much memory this process has mapped and filled, in bytes."""
    return int(psutil.Process().memory_info().rss)


def forget_peak() -> None:
    """Let `peak_bytes` begin anew; where the system cannot, it is that since the start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Tell the most memory that this process had mapped and filled, in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # Windows has the former
