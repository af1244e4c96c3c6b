"""Which batch sizes are possible, and which of them are worth a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foveate.config.settings import RunConfig

KEPT_FREE = 0.1
"""Share of the memory that is not planned for: a run was seen to take up to 10 % more than its
trial."""
_CONSTANT = 3.0
"""What the first batch adds once, for code and workspaces, is at least the memory of so many
samples; with TensorFlow it was that of 11 to 27 on EfficientNet-Lite0, MobileNetV3Small and a
U-Net over each."""
_CONSTANT_AT_MOST = 30.0
"""No more than that, it is taken to be, where two sizes tell less of a sample than noise does."""

QUEUE_SHARE = 16
"""Batches that wait may take one part in so many of the memory."""


def batch_sizes(config: RunConfig) -> list[int]:
    """Batch sizes that may be taken: the one that is stated, or all that make a whole step."""
    if pinned_by(config):
        return [config.batch_size]
    whole = config.effective_batch_size
    return [size for size in range(1, whole + 1) if whole % size == 0]


def pinned_by(config: RunConfig) -> str:
    """Name the setting that leaves but one batch size; empty where others may be chosen."""
    if config.data.batch_size:
        return "data.batch_size"
    accumulates = config.recipe.gradient_accumulation_steps
    return "recipe.gradient_accumulation_steps" if accumulates else ""


def next_size(
    sizes: Sequence[int],
    peaks: Mapping[int, int],
    steady: Mapping[int, int],
    base: int,
    limit: int,
) -> int | None:
    """Choose what to try: the smallest size, the largest that surely fits, the largest that may.

    Args:
        sizes: All that may be taken, ascending.
        peaks: Bytes of memory by size, of those that were tried.
        steady: The same when they were trained for a while.
        base: Bytes of memory before the first batch.
        limit: Bytes of memory that no try may exceed, as far as can be told.

    Returns:
        The size, or None where none is left that helps.
    """
    if not peaks:
        return sizes[0]
    largest = max(peaks)
    if len(peaks) == 1:
        # More than a sample takes: what a plan keeps free may be taken to learn how much it is.
        each = (peaks[largest] - base) / (largest + _CONSTANT)
    elif len(peaks) == 2:
        each = sample_bytes(peaks, steady, base)
        limit = round(limit * (1 - KEPT_FREE))
    else:
        return None
    return max(
        (
            size
            for size in sizes
            if size > largest and peaks[largest] + each * (size - largest) <= limit
        ),
        default=None,
    )


def sample_bytes(peaks: Mapping[int, int], steady: Mapping[int, int], base: int) -> float:
    """Reckon what a sample adds beyond the largest two sizes that were tried.

    Between small ones the peak may be that of compiling and hardly grow, as training does, and
    from one process to the next steady memory was seen to differ by 44 MiB.

    Args:
        peaks: As for `next_size`, of at least two sizes.
        steady: As for `next_size`.
        base: As for `next_size`.
    """
    low, high = sorted(peaks)[-2:]
    return max(
        (peaks[high] - peaks[low]) / (high - low),
        (steady[high] - steady[low]) / (high - low),
        (steady[high] - base) / (high + _CONSTANT_AT_MOST),
        0.0,
    )
