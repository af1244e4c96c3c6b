"""Files that are written whole or not at all, whatever crash, kill or full disk comes between."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from foveate.errors import RunError

try:
    import fcntl
except ImportError:  # not on Windows, where two runs at once are not kept apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; what stands there afterwards takes its place in one move.

    Args:
        path: The file in the end; its folder exists. It stays as it is after an error.

    Yields:
        A path beside it, with the same suffixes.
    """
    beside = path.with_name(f".part-{path.name}")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except Exception:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader or a crash sees the old content or the new, never a part.

    Args:
        path: The file; its folder is made if need be.
        content: Text (stored as UTF-8) or bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def is_locked(file: IO[str]) -> bool:
    """Lock a file until it is closed, or the process ends, however it ends.

    Args:
        file: An open file.

    Returns:
        False where somebody else has locked it; True on systems and disks without such locks.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some file systems of other machines have none
            return True
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system has such a call."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_space(folder: Path, num_bytes: int) -> None:
    """Check that a file can be written, where a full disk would leave a mess instead of an error.

    Args:
        folder: Where to; it exists.
        num_bytes: How much.

    Raises:
        RunError: Less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise RunError(
            f"Writing to {str(folder)!r} needs {num_bytes / 2**20:.1f} MiB, but got a disk with "
            f"{free / 2**20:.1f} MiB free. Make room, or choose another disk with --out."
        )
