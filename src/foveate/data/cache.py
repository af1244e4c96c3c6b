"""A bounded folder of bytes that took long to get; the least recently used go first."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO, FileIO
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

Parts = Sequence[NDArray[np.uint8]]
"""Bytes in parts that follow one another, of any shape; views are cheap."""

_PREFIX = "foveate-cache-"


class ByteCache:
    """Keeps bytes by key in a folder of its own, which goes with the process.

    Threads may share one. The folder lies where the system keeps temporary files (``TMPDIR``).

    Args:
        max_bytes: What the files together never exceed; larger ones are not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the oldest first
        self._total = 0
        self._lock = threading.Lock()
        # A lock a key, as to make one thing may need to get another one.
        self._making: weakref.WeakValueDictionary[str, threading.Lock]
        self._making = weakref.WeakValueDictionary()
        _remove_orphans()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def get(
        self,
        key: str,
        make: Callable[[], bytes],
        start: int = 0,
        stop: int | None = None,
    ) -> bytes:
        """Give what is kept under a key, made now if need be, by one thread alone.

        Args:
            key: Any text.
            make: Makes what belongs to it; called without any other lock than that of the key.
            start: First byte wanted.
            stop: Byte after the last one wanted; the end when not given.
        """
        with self.open(key, lambda: [np.frombuffer(make(), np.uint8)]) as file:
            file.seek(start)
            return file.read(-1 if stop is None else max(stop - start, 0))

    def open(self, key: str, make: Callable[[], Parts]) -> FileIO | BytesIO:
        """Open what is kept under a key for reading, as `get`.

        Args:
            key: Any text.
            make: Makes what belongs to it.

        Returns:
            A file without a buffer; its content stays what it is even if it is no longer kept.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:
            file: FileIO | BytesIO | None = self._open(name)
            if file is None:
                parts = make()
                self._keep(name, parts)
                file = self._open(name) or BytesIO(b"".join(_contiguous(parts)))
        return file

    def _open(self, name: str) -> FileIO | None:
        with self._lock:
            if name not in self._sizes:
                return None
            try:
                file = FileIO(self.folder / name)
            except OSError:  # somebody cleaned up, or too many files are open
                (self.folder / name).unlink(missing_ok=True)  # what is not counted must not stay
                self._total -= self._sizes.pop(name)
                return None
            self._sizes.move_to_end(name)
            return file

    def _keep(self, name: str, parts: Parts) -> None:
        num_bytes = sum(part.nbytes for part in parts)
        if num_bytes > self._max_bytes:
            return
        with self._lock:  # also while writing: what is counted is there, and what is there counted
            while self._total + num_bytes > self._max_bytes:
                oldest, size = self._sizes.popitem(last=False)
                (self.folder / oldest).unlink(missing_ok=True)
                self._total -= size
            try:
                with (self.folder / name).open("wb") as file:
                    file.writelines(_contiguous(parts))
            except OSError:  # a full disk costs time, no more
                (self.folder / name).unlink(missing_ok=True)
            else:
                self._sizes[name] = num_bytes
                self._total += num_bytes


def _contiguous(parts: Parts) -> Iterator[memoryview]:
    return (np.ascontiguousarray(part).data for part in parts)


def _remove_orphans() -> None:
    """Remove what processes left that were killed before they could do so themselves."""
    prefix = _prefix()
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        owner = folder.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _prefix() -> str:
    """What names of folders begin with where process ids mean what they mean here.

    Machines and containers may share a folder for temporary files, but not their processes.
    """
    try:
        processes = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # no Linux
        processes = 0
    place = f"{socket.gethostname()} {uuid.getnode():x} {processes}"
    return f"{_PREFIX}{hashlib.sha256(place.encode()).hexdigest()[:12]}-"
