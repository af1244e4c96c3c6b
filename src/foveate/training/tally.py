"""What a run takes, over all the processes that work on it: its time and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foveate.planning.guard import MemoryGuard
from foveate.training.clock import Clock


@dataclass(frozen=True)
class Tally:
    """Counts what a run takes.

    Attributes:
        clock: Counts its seconds.
        guard: Watches its memory.
    """

    clock: Clock
    guard: MemoryGuard

    def to_dict(self) -> dict[str, Any]:
        """Give what was taken so far, as JSON values."""
        seconds = round(self.clock.spent, 3)
        return {
            "seconds": seconds,
            "planning_seconds": round(self.clock.planning_seconds, 3),
            "peak_memory_bytes": self.guard.peak_bytes,
        }

    def add(self, before: Mapping[str, Any]) -> None:
        """Count what the processes before this one took, by what `to_dict` gave there."""
        self.clock.add(before["seconds"])
        self.clock.planning_seconds += before.get("planning_seconds", 0.0)
        self.guard.peak_bytes = max(self.guard.peak_bytes, before["peak_memory_bytes"])
