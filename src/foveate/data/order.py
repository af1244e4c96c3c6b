"""The rows of an epoch, and their order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foveate.data.manifest import Manifest
from foveate.errors import ConfigError, nearest

SAMPLINGS = ("uniform", "balanced", "weighted")

_WINDOW_SHARDS = 4


def check_sampling(manifest: Manifest, sampling: str, shuffle: bool) -> None:
    """Check that rows can be drawn in a way.

    Args:
        manifest: The rows.
        sampling: One of `SAMPLINGS`.
        shuffle: Whether epochs are shuffled.

    Raises:
        ConfigError: There is no such way, or the rows lack what it goes by.
    """
    if sampling not in SAMPLINGS:
        raise ConfigError(
            f"sampling must be one of {', '.join(SAMPLINGS)}, but got {sampling!r}."
            f"{nearest(sampling, SAMPLINGS)}"
        )
    if sampling == "uniform":
        return
    if not shuffle:
        raise ConfigError(f"sampling {sampling!r} draws rows, so it needs shuffle=True.")
    column = "label" if sampling == "balanced" else "weight"
    if column not in manifest.table.columns or (manifest.has_masks and column == "label"):
        raise ConfigError(
            f"sampling {sampling!r} needs {column}s, but {manifest.source} has none. "
            "Name their column, or set loader.sampling to uniform."
        )
    if not _shares(manifest, sampling).sum() > 0:
        raise ConfigError(f"{manifest.source}: some weight must be above 0, but all are 0.")


def epoch_rows(
    manifest: Manifest,
    rng: np.random.Generator,
    shuffle: bool,
    sampling: str,
    repeat: int,
    images_at_once: int | None = None,
) -> NDArray[np.uint32]:
    """Choose the rows of an epoch and their order.

    Args:
        manifest: The rows.
        rng: The only source of randomness.
        shuffle: Whether the order is random; as in the manifest if not.
        sampling: One of `SAMPLINGS`, see `foveate.data.loader.BatchLoader`.
        repeat: How many passes over the rows follow one another.
        images_at_once: Of how many images the tiles are mixed; of all when not given.

    Returns:
        Row numbers, (rows * repeat,).
    """
    passes = []
    for _ in range(repeat):
        rows = np.arange(manifest.num_samples, dtype=np.uint32)
        if sampling != "uniform":
            classes = _classes(manifest) if sampling == "balanced" else None
            rows = drawn(_shares(manifest, sampling), rng, classes)
        passes.append(_shuffled(manifest, rows, rng, images_at_once) if shuffle else rows)
    return np.concatenate(passes)


def drawn(
    shares: NDArray[np.float64],
    rng: np.random.Generator,
    classes: NDArray[np.integer] | None = None,
) -> NDArray[np.uint32]:
    """Draw as many rows as there are, each in proportion to its share.

    Systematic sampling (Madow, 1949) in a random order of the rows: a row comes as often as is
    expected, rounded up or down, and so does each class.

    Args:
        shares: Of each row, (rows,), zero or positive, some positive; they need not sum to 1.
        rng: The only source of randomness.
        classes: Class id of each row, (rows,), if they count.

    Returns:
        Row numbers, (rows,); some several times, some never.
    """
    rows = rng.permutation(len(shares)).astype(np.uint32)
    if classes is not None:
        rows = rows[classes[rows].argsort(kind="stable")]
    ends = shares[rows].cumsum()
    marks = (np.arange(len(shares)) + rng.random()) * (ends[-1] / len(shares))
    last = np.flatnonzero(shares[rows])[-1]  # where rounding would step beyond the end
    return rows[np.minimum(ends.searchsorted(marks, side="right"), last)]


def _shares(manifest: Manifest, sampling: str) -> NDArray[np.float64]:
    if sampling == "weighted":
        return manifest.table["weight"].to_numpy().astype(np.float64)
    codes = _classes(manifest)
    return 1 / np.bincount(codes)[codes]


def _classes(manifest: Manifest) -> NDArray[np.integer]:
    return manifest.table["label"].to_physical().to_numpy()


def _shuffled(
    manifest: Manifest,
    rows: NDArray[np.uint32],
    rng: np.random.Generator,
    images_at_once: int | None,
) -> NDArray[np.uint32]:
    """Shuffle rows: all of them, or in windows of decoded images, or of remote shards."""
    if images_at_once is not None:
        images = manifest.table["tile_image"].to_numpy()
        return rows[shuffled_in_windows(images[rows], rng, images_at_once)]
    shards = manifest.remote_shards()
    if shards is not None:
        return rows[shuffled_in_windows(shards[rows], rng)]
    rng.shuffle(rows)
    return rows


def shuffled_in_windows(
    shards: NDArray[np.integer], rng: np.random.Generator, window: int = _WINDOW_SHARDS
) -> NDArray[np.uint32]:
    """Shuffle the shards, or images, then the rows within each few that follow one another.

    Each part of a shard is then wanted within a short time, once, and need not be fetched twice.

    Args:
        shards: Number of the shard, or image, that each row lies in, (rows,).
        rng: The only source of randomness.
        window: How many of them are mixed.

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
