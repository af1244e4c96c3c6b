"""Lists of large folders, kept between starts in the user's cache folder.

A list is used again only if every folder that it was read from still has its stamp, see
`foveate.data.tree`. A file that is damaged, foreign or out of date is as good as none; one that
nobody asked for in three months is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from foveate.config.settings import DataConfig
from foveate.data.tree import FolderTree, stamp

_SMALLEST = 5_000  # rows; fewer are listed faster than a file is worth
_ABOUT = "foveate.listing"
_DIGEST_BYTES = 32
_BASES = {"win32": "LOCALAPPDATA", "darwin": ""}  # variables that name a system's place for caches
_FOLDERS = {"win32": "AppData/Local", "darwin": "Library/Caches"}  # in the user's home
_FORGOTTEN_AFTER = 90 * 86_400  # seconds without use


def cache_folder() -> Path:
    """Say where what can be made again is kept: `FOVEATE_CACHE`, or the system's custom.

    Returns:
        The folder, which need not exist; one for temporary files where the user has no home.
    """
    with suppress(RuntimeError):  # nobody has told of a home
        if stated := os.environ.get("FOVEATE_CACHE"):
            return Path(stated).expanduser()
        if base := os.environ.get(_BASES.get(sys.platform, "XDG_CACHE_HOME")):
            return Path(base) / "foveate"
        if os.access(home := Path.home(), os.W_OK):
            return home / _FOLDERS.get(sys.platform, ".cache") / "foveate"
    # A service, or a container that runs as anybody.
    user = os.getuid() if hasattr(os, "getuid") else "cache"
    return Path(tempfile.gettempdir()) / f"foveate-{user}"


def load_listing(folder: Path, config: DataConfig) -> tuple[pl.DataFrame, Counter[str]] | None:
    """Read the list of a folder, if it still holds.

    Args:
        folder: The folder.
        config: Names of the image and mask folders.

    Returns:
        The list and what it leaves out, as given to `save_listing`; None if that was never
        called, or the folder or any in it has changed since.
    """
    try:
        file = _file(folder, config)
        data = file.read_bytes()
    except OSError:
        return None
    with suppress(OSError):  # it may be another user's
        os.utime(file)
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        about = json.loads(pl.read_parquet_metadata(BytesIO(content))[_ABOUT])
        stamps, left_out = about.pop("stamps"), Counter(about.pop("left_out"))
        if about != _about(folder, config):
            return None
        root = folder.resolve()
        if any(stamp(root / path) != found for path, found in stamps.items()):
            return None
        return pl.read_parquet(BytesIO(content)), left_out
    except (pl.exceptions.PolarsError, ValueError, KeyError, AttributeError, TypeError):
        return None


def save_listing(
    folder: Path,
    config: DataConfig,
    tree: FolderTree,
    frame: pl.DataFrame,
    left_out: Counter[str],
) -> None:
    """Keep the list of a folder for the next start, if it is large and at rest.

    Args:
        folder: The folder.
        config: Names of the image and mask folders.
        tree: What the list was made from.
        frame: The list.
        left_out: How many files are not in it, by suffix.
    """
    devices = {found[0] for found in tree.stamps.values() if found}
    if frame.height < _SMALLEST or not tree.settled or devices & _timeless_devices():
        return
    stamps = {os.path.relpath(path, folder): found for path, found in tree.stamps.items()}
    content = BytesIO()
    about = json.dumps(_about(folder, config) | {"stamps": stamps, "left_out": left_out})
    frame.write_parquet(content, metadata={_ABOUT: about})
    data = content.getvalue()
    try:
        _write(_file(folder, config), hashlib.sha256(data).digest() + data)
    except OSError:
        return  # a full disk or a home that cannot be written to only costs the time saved


def _about(folder: Path, config: DataConfig) -> dict[str, Any]:
    return {
        "version": 2,
        "root": str(folder.resolve()),
        "image": config.image,
        "mask": config.mask,
    }


def _file(folder: Path, config: DataConfig) -> Path:
    key = hashlib.sha256(json.dumps(_about(folder, config)).encode()).hexdigest()
    return cache_folder() / "listings" / f"{key[:32]}.parquet"


def _timeless_devices(mounts: Path = Path("/proc/self/mountinfo")) -> set[int]:
    """Find file systems in user space, such as object stores: their folders may tell no times.

    Fields are those of Linux' proc_pid_mountinfo(5): the third is the device, the type of the
    file system follows a lone hyphen. Other systems have no such file.
    """
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return set()
    numbers = [line[2].split(":") for line in lines if line[line.index("-") + 1][:4] == "fuse"]
    return {os.makedev(int(major), int(minor)) for major, minor in numbers}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _forget_unused(path.parent)
    # Readable by its owner alone: names of files may be names of people.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        beside = Path(file.name)
        try:
            file.write(data)
            file.close()
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def _forget_unused(folder: Path) -> None:
    oldest = time.time() - _FORGOTTEN_AFTER
    for file in folder.iterdir():
        with suppress(OSError):  # another process may be doing the same
            if file.stat().st_mtime < oldest:
                file.unlink()
