"""Folders listed once each, and the stamps that tell whether a list still holds."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

from foveate.errors import ManifestError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
)
"""Files that count as images when a folder is listed, in lower case."""

# What lies beside images and surely is none: notes, annotations, an operating system's own.
_NOTES = frozenset({".txt", ".md", ".html", ".xml", ".json", ".csv", ".tsv", ".db", ".ini"})

Stamp = list[int]

_SETTLED_NS = 2 * 10**9  # the coarsest clock of a file system in use (FAT) ticks in two seconds


class FolderTree:
    """Lists folders, each once, without a look at a single file.

    Attributes:
        stamps: What `stamp` gave for each folder that an answer rests on, before it was listed.
        settled: Whether every later change of the answers will change a stamp. Not so where a
            folder has just changed, as a further change may fall on the same tick of the clock,
            nor where a link leads to no folder, as it may lead to one tomorrow.
    """

    def __init__(self) -> None:
        self.stamps: dict[Path, Stamp] = {}
        self.settled = True
        self._entries: dict[Path, tuple[list[str], list[str]]] = {}
        self._others: dict[Path, Counter[str]] = {}

    def entries(self, folder: Path) -> tuple[list[str], list[str]]:
        """Name the visible folders and image files in a folder.

        Args:
            folder: Where to look; not below it.

        Returns:
            Names of the folders and of the images, each sorted.

        Raises:
            ManifestError: It is no folder.
        """
        if folder not in self._entries:
            if not folder.is_dir():
                raise ManifestError(f"{str(folder)!r} must be a folder, but got a file")
            self._note(folder)
            self._entries[folder] = self._list(folder)
            self.settled &= stamp(folder) == self.stamps[folder]
        return self._entries[folder]

    def others(self, folder: Path) -> Counter[str]:
        """Count the visible files of a folder that are called neither images nor notes, by suffix.

        Raises:
            ManifestError: It is no folder.
        """
        self.entries(folder)
        return self._others[folder]

    def is_folder(self, path: Path) -> bool:
        """Whether there is a folder at a path."""
        self._note(path.parent)
        found = path.is_dir()
        self.settled &= found or not path.is_symlink()
        return found

    def _note(self, folder: Path) -> None:
        if folder in self.stamps:
            return
        now, found = time.time_ns(), stamp(folder)
        if found is None or newest(found) > now - _SETTLED_NS:
            self.settled = False
        self.stamps[folder] = found or []

    def _list(self, folder: Path) -> tuple[list[str], list[str]]:
        folders, images = [], []
        others = self._others[folder] = Counter()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                _, dot, end = name.rpartition(".")
                suffix = f"{dot}{end.lower()}" if dot else ""
                is_image = suffix in IMAGE_SUFFIXES
                # Only a link that is not called an image is followed: each costs a look at disk.
                if entry.is_dir(follow_symlinks=not is_image):
                    folders.append(name)
                elif is_image:
                    images.append(name)
                else:
                    self.settled &= not entry.is_symlink()
                    if suffix not in _NOTES:
                        others[suffix] += 1
        return sorted(folders), sorted(images)


def stamp(folder: Path) -> Stamp | None:
    """Take what changes whenever an entry is added to a folder, taken from it or renamed.

    Args:
        folder: Its path; links are followed.

    Returns:
        Device, inode, times of modification and change in nanoseconds, links and size; None
        where there is no folder to be seen. The time of change cannot be set back by a tool
        that copies times.
    """
    try:
        found = folder.stat()
    except OSError:
        return None
    return [
        found.st_dev,
        found.st_ino,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_nlink,
        found.st_size,
    ]


def newest(found: Stamp) -> int:
    """When a folder last changed, in nanoseconds since 1970."""
    return max(found[2:4])
