"""Watches the memory of this process and its children while a run goes on.

What a process has resident is quick to ask for. Where there are children, memory that several of
them share must count once: the share of each (PSS) adds up to that, but asking for it takes
milliseconds a gibibyte. So what is counted twice is measured now and then, and taken off what is
resident at every sample.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

import psutil

from foveate.planning.memory import give_back

NEAR = 0.94
"""Share of the limit above which something must give way."""

_SHARE = 0.02
"""Most time of one processor that close looks take."""


def tree_bytes() -> int:
    """Measure the memory of this process and all below it; what they share counts once.

    Returns:
        Bytes. What no process has mapped, such as batches that wait in shared memory, is not in
        it.
    """
    return _measured(_tree())


class MemoryGuard:
    """Samples the memory of the process tree while a ``with`` block runs.

    Args:
        limit_bytes: What the tree may take.
        every_seconds: Time between two samples.

    Attributes:
        limit_bytes: What the tree may take.
        peak_bytes: The most that was seen, in bytes.
    """

    def __init__(self, limit_bytes: int, every_seconds: float = 0.1) -> None:
        self.limit_bytes = limit_bytes
        self.peak_bytes = 0
        self._every = every_seconds
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-guard", daemon=True)
        self._tree: list[psutil.Process] = []
        self._twice = self._latest = 0  # bytes
        self._looked = self._look_closely_at = float("-inf")  # seconds

    def __enter__(self) -> Self:
        self._sample(closely=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def is_near(self) -> bool:
        """Say whether the tree takes more than `NEAR` of the limit now."""
        if time.monotonic() - self._looked > self._every:
            self._sample()
        return self._latest > NEAR * self.limit_bytes

    def relieve(self) -> None:
        """Give back what is not needed, and look anew."""
        give_back()
        self._sample(closely=True)

    def _watch(self) -> None:
        while not self._stopping.wait(self._every):
            with contextlib.suppress(psutil.Error, OSError):  # no reason to stop watching
                self._sample()

    def _sample(self, closely: bool = False) -> None:
        with self._lock:
            sizes = [_resident(process) for process in self._tree]
            is_due = time.monotonic() >= self._look_closely_at
            if closely or is_due or 0 in sizes:  # one of them has ended
                self._look_closely()
            else:
                self._latest = sum(sizes) - self._twice
            self._looked = time.monotonic()
            self.peak_bytes = max(self.peak_bytes, self._latest)

    def _look_closely(self) -> None:
        """Find the processes, and measure what they share."""
        started = time.thread_time()
        self._tree = _tree()
        before = sum(_resident(process) for process in self._tree)
        self._latest = _measured(self._tree)
        after = sum(_resident(process) for process in self._tree)
        # It takes a while, in which memory changes: better to overrate what counts than to
        # miss some.
        self._twice = max(min(before, after) - self._latest, 0)
        pause = max(self._every, (time.thread_time() - started) / _SHARE)
        self._look_closely_at = time.monotonic() + pause


def _tree() -> list[psutil.Process]:
    """List this process and all below it that live."""
    own = psutil.Process()
    return [own, *(child for child in own.children(recursive=True) if _resident(child))]


def _resident(process: psutil.Process) -> int:
    """Bytes of memory that a process has mapped and filled; 0 where it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _measured(tree: list[psutil.Process]) -> int:
    return _resident(tree[0]) if len(tree) == 1 else sum(_share(process) for process in tree)


def _share(process: psutil.Process) -> int:
    """Bytes of a process's memory, of what n processes share an n-th; else its own alone."""
    try:
        full = process.memory_full_info()
    except psutil.Error:  # it has ended, or the system does not let us look
        return _resident(process)
    return int(getattr(full, "pss", full.uss))
