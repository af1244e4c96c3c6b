"""What a frozen backbone makes of samples, in files: appended once, then read at random."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.data.storage import Descriptor, open_descriptor
from foveate.disk import write_atomically
from foveate.errors import RunError

MASKS = "segmentation_masks"
"""Name of the array that holds the masks of the views; all others are features."""


@dataclass(frozen=True)
class FeatureFiles:
    """Arrays of all rows of a split, in one or several views (augmented versions) of each.

    An item is a row in a view; items lie in order, view by view. Reads do not map the files:
    mapped pages would count as memory of the process.

    Attributes:
        folder: Where the files are, one an array; it exists.
        num_rows: Rows of the split.
        num_views: Views of each row.
        shapes: Name of each array, and its shape without the batch axis. `MASKS` are uint8, all
            others float32.
    """

    folder: Path
    num_rows: int
    num_views: int
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def item_bytes(self) -> int:
        """Size of an item."""
        return sum(self._bytes_of(name) for name in self.shapes)

    @property
    def num_items(self) -> int:
        """Items in all."""
        return self.num_rows * self.num_views

    @property
    def num_done(self) -> int:
        """Items that are stored and on the disk."""
        return self._load()[0]

    @cached_property
    def unreadable(self) -> dict[int, tuple[str, str]]:
        """Rows whose files could not be read: path of the image, and why."""
        return self._load()[1]

    def open(self) -> None:
        """Have the files open, and what is told of them at hand: another run may delete them.

        Raises:
            OSError: They are gone.
        """
        _ = self._descriptors, self.unreadable

    def cut(self, items: int) -> None:
        """Keep the first items alone; what follows them may be torn."""
        for name in self.shapes:
            with self._file(name).open("ab") as file:
                file.truncate(items * self._bytes_of(name))

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add items; `sync` makes them last.

        Args:
            arrays: By name, (n, *shape) each.
        """
        for name, array in arrays.items():
            kind = self._type_of(name)
            with self._file(name).open("ab") as file:
                file.write(np.ascontiguousarray(array, kind).data)

    def sync(self, unreadable: Mapping[int, tuple[str, str]]) -> None:
        """Bring to the disk what was appended.

        Args:
            unreadable: Rows whose files could not be read, path and why, beside those that are
                known already.
        """
        for name in self.shapes:
            with self._file(name).open("ab") as file:
                os.fsync(file.fileno())
        # One file may have got more than another before the disk was full.
        items = min(
            self._file(name).stat().st_size // self._bytes_of(name) for name in self.shapes
        )
        # What is read ahead is told of again when it is stored.
        known = {row: why for row, why in {**self._load()[1], **unreadable}.items() if row < items}
        state = {"items": items, "unreadable": {str(row): why for row, why in known.items()}}
        write_atomically(self._state, json.dumps(state))

    def read(self, rows: NDArray[np.integer[Any]], epoch: int) -> dict[str, NDArray[Any]]:
        """Read rows in the view that belongs to an epoch; once open, threads may do so at once.

        Args:
            rows: Row numbers, (B,).
            epoch: Epochs take the views in turn.

        Returns:
            New arrays (B, *shape) by name.

        Raises:
            RunError: The files were altered.
        """
        items = epoch % self.num_views * self.num_rows + rows.astype(np.int64)
        arrays = {}
        for name in self.shapes:
            array = arrays[name] = self.empty(name, len(rows))
            size, number = self._bytes_of(name), self._descriptors[name].number
            for place, item in enumerate(items.tolist()):
                if os.preadv(number, [array[place].data], item * size) != size:
                    raise RunError(
                        f"{self._file(name)} must hold {self.num_items:,} items, but got none "
                        f"at {item:,}. Delete the folder; what was in it is computed anew."
                    )
        return arrays

    def empty(self, name: str, size: int) -> NDArray[Any]:
        """Make an array of `size` items, (size, *shape)."""
        return np.empty((size, *self.shapes[name]), self._type_of(name))

    @cached_property
    def _descriptors(self) -> dict[str, Descriptor]:
        return {name: open_descriptor(str(self._file(name))) for name in self.shapes}

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def _load(self) -> tuple[int, dict[int, tuple[str, str]]]:
        """What `sync` wrote last: items on the disk, and rows that could not be read."""
        try:
            state = json.loads(self._state.read_text())
            told = {int(row): (path, why) for row, (path, why) in state["unreadable"].items()}
            return int(state["items"]), told
        except (OSError, ValueError, KeyError):
            return 0, {}

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _type_of(self, name: str) -> Any:
        return np.uint8 if name == MASKS else np.float32

    def _bytes_of(self, name: str) -> int:
        return int(np.prod(self.shapes[name])) * np.dtype(self._type_of(name)).itemsize
