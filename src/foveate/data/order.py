"""The order of an epoch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foveate.data.manifest import Manifest

_WINDOW_SHARDS = 4


def shuffled(manifest: Manifest, rng: np.random.Generator) -> NDArray[np.uint32]:
    """Shuffle the rows: all of them, or in windows where they lie in remote shards.

    Args:
        manifest: The rows.
        rng: The only source of randomness.

    Returns:
        Row numbers, (rows,).
    """
    shards = manifest.remote_shards()
    if shards is not None:
        return shuffled_in_windows(shards, rng)
    rows = np.arange(manifest.num_samples, dtype=np.uint32)
    rng.shuffle(rows)
    return rows


def shuffled_in_windows(
    shards: NDArray[np.integer], rng: np.random.Generator, window: int = _WINDOW_SHARDS
) -> NDArray[np.uint32]:
    """Shuffle the shards, then the rows within each few shards that follow one another.

    Each part of a shard is then wanted within a short time, once, and need not be fetched twice.

    Args:
        shards: Number of the shard that each row lies in, (rows,).
        rng: The only source of randomness.
        window: How many shards are mixed.

    Returns:
        Row numbers, (rows,).
    """
    _, codes, counts = np.unique(shards, return_inverse=True, return_counts=True)
    order = rng.permutation(len(counts))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    rows = np.argsort(place[codes], kind="stable").astype(np.uint32)
    ends = counts[order].cumsum()[window - 1 :: window]
    for part in np.split(rows, ends):
        rng.shuffle(part)  # a view: the rows themselves are shuffled
    return rows
