"""Watching how much the files in a folder take."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


def _listed(folder: Path) -> set[tuple[str, int, int]]:
    """The files in the folders of a folder, each with its size and its last change."""
    found = set()
    for within in os.scandir(folder):
        for entry in os.scandir(within):
            with suppress(FileNotFoundError):  # gone meanwhile
                state = entry.stat()
                found.add((entry.path, state.st_size, state.st_mtime_ns))
    return found


@contextmanager
def sampled(folder: Path) -> Iterator[list[int]]:
    """Bytes in the folders of a folder: all the time, and around each change to a file.

    A file may go while others are listed, so only those count that two listings in a row show:
    between these they were all there at once.
    """
    sizes: list[int] = []
    done = threading.Event()

    def look() -> None:
        sizes.append(sum(size for _, size, _ in _listed(folder) & _listed(folder)))

    def keep_looking() -> None:
        while not done.is_set():
            look()

    def looking(change: Callable[..., Any]) -> Callable[..., Any]:
        def looked_at(*arguments: Any, **named: Any) -> Any:
            look()
            try:
                return change(*arguments, **named)
            finally:
                look()

        return looked_at

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("write_bytes", "unlink"):
                patch.setattr(Path, name, looking(getattr(Path, name)))
            yield sizes
    finally:
        done.set()
        thread.join()
