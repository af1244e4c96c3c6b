"""The memory of this process: now, at its highest, and what of it can be given back."""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
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


def give_back() -> None:
    """Give the system what this process keeps but does not need at the moment.

    That is what nobody refers to; what the C library holds back; and the code and constants of
    libraries, which come again from their files where they are needed. To import a backend and to
    compile a model fills 400 MiB with these, of which training reads 60. They are given back on
    Linux alone.
    """
    mapped = _mapped()
    gc.collect()
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # glibc has it, others do not
        libc.malloc_trim(0)
    with suppress(psutil.Error, OSError):  # the system does not let us look
        # What was there before is no library that another thread is about to load and to change.
        for begin, end in _unchanged_pages() & mapped:
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def _unchanged_pages() -> set[tuple[int, int]]:
    """Addresses, (begin, end), at which files are mapped to be read and were never written to."""
    found = set()
    for one in psutil.Process().memory_maps(grouped=False):
        changed = one.anonymous or one.private_dirty or one.shared_dirty or one.swap
        if one.perms in ("r--p", "r-xp") and one.path.startswith("/") and not changed:
            found.add(_addresses(one.addr))
    return found


def _mapped() -> set[tuple[int, int]]:
    """Addresses of all that is mapped: little work, as no page is looked at."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {_addresses(line.split(" ", 1)[0]) for line in lines}
    return set()


def _addresses(text: str) -> tuple[int, int]:
    begin, end = text.split("-")
    return int(begin, 16), int(end, 16)
