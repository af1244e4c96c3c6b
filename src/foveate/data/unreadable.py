"""Which samples could not be read, and when there are too many of them to go on."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from foveate.errors import ConfigError, SampleError, nearest

POLICIES = ("fail", "skip")


class Unreadable:
    """Decides what becomes of a sample that cannot be read, and remembers it.

    Threads may share one.

    Args:
        policy: ``fail`` raises the first error; ``skip`` notes it, and raises where too many
            rows are concerned.
        most: Share of the rows, 0 to 1, above which ``skip`` raises as well; it always does so
            where none is left.
        num_rows: Number of all rows.
        source: What messages call the data.

    Raises:
        ConfigError: There is no such policy.
    """

    def __init__(self, policy: str, most: float, num_rows: int, source: str) -> None:
        if policy not in POLICIES:
            raise ConfigError(
                f"unreadable must be one of {', '.join(POLICIES)}, but got {policy!r}."
                f"{nearest(policy, POLICIES)}"
            )
        self.skips = policy == "skip"
        self._most, self._num_rows, self._source = most, num_rows, source
        self._rows: set[int] = set()
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str, float, int, str]]:
        policy = "skip" if self.skips else "fail"
        return Unreadable, (policy, self._most, self._num_rows, self._source)

    def add(self, row: int, path: str, error: SampleError) -> None:
        """Note a row that cannot be read; noting it again changes nothing.

        Args:
            row: Its number.
            path: Its image.
            error: Why the image, or its mask, cannot be used.

        Raises:
            SampleError: The given one, or one that says how many rows are concerned.
        """
        if not self.skips:
            raise error
        with self._lock:
            self._rows.add(row)
            self._reasons.setdefault(path, str(error))
            share = len(self._rows) / self._num_rows
            too_many = share > self._most or share == 1
        if too_many:
            raise SampleError(self._complaint()) from None

    @property
    def reasons(self) -> dict[str, str]:
        """Path of each image noted, and why it or its mask cannot be used."""
        with self._lock:
            return dict(self._reasons)

    def among(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which of some rows were noted, bool of their shape."""
        with self._lock:
            noted = np.fromiter(self._rows, np.int64, len(self._rows))
        return np.isin(rows, noted)

    def _complaint(self) -> str:
        reasons = list(self.reasons.values())
        return (
            f"{self._source}: at most a share of {self._most:.4g} of the rows, and never all, "
            f"may be unreadable (data.max_unreadable), but got {len(self._rows)} of "
            f"{self._num_rows}:\n- "
            + "\n- ".join(reasons[:5])
            + ("\n- ..." if len(reasons) > 5 else "")
            + "\nRepair the files or drop their rows, or raise data.max_unreadable."
        )
