"""What a run says about the files that it left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from rich.console import Console

from foveate.data.loader import BatchLoader
from foveate.errors import listed
from foveate.runs import Run


class UnreadableList(keras.callbacks.Callback):
    """Lists the files that could not be read in the run, and tells of new ones.

    Args:
        run: Whose list.
        console: Where to tell, at the end of an epoch: usually the first, as it reads all files.
        loaders: Those in use, by split.
    """

    def __init__(self, run: Run, console: Console, loaders: Mapping[str, BatchLoader]) -> None:
        super().__init__()
        self._run, self._console, self._loaders = run, console, loaders

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add what the loaders have left out so far."""
        for split, loader in self._loaders.items():
            new = self._run.add_unreadable(split, loader.unreadable)
            if new:
                num_files = loader.manifest.table["image"].n_unique()  # a row may be a tile
                self._console.print(
                    f"warning: {len(new):,} of {num_files:,} {split} files "
                    f"could not be read and are left out: {listed(new)}. "
                    f"Reasons: {self._run.unreadable_path}",
                    style="yellow",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
