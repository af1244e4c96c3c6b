"""Where loading time goes: the loader's own functions on some rows, each timed for itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.data import augment as augmentation
from foveate.data.header import probe
from foveate.data.manifest import Manifest
from foveate.data.parts import Sample, Source, take_samples, time_parts
from foveate.data.places import Encoded
from foveate.data.repack import PackOptions, sample_files
from foveate.errors import SampleError

PARTS = ("read", "decode", "warp", "colour", "collate")
"""Parts of loading in their order; the last is all that is none of the others."""

_SECONDS = 3.0
_BYTES = 64 * 1024**2  # of files held in memory
_SHARP = 0.9  # share of the drawn changes that a packed side must be sharp enough for
_STEP = 32  # sides are multiples of this many pixels


class Batches(Protocol):
    """What of a `foveate.data.loader.BatchLoader` is timed."""

    manifest: Manifest

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def rows_at(self, position: int) -> NDArray[np.uint32]:
        """Row numbers of a batch."""

    def batch_at(self, position: int) -> Any:
        """Make a batch on the calling thread."""


@dataclass(frozen=True)
class LoadTimes:
    """What one thread takes for an image, in milliseconds.

    Attributes:
        num_images: How many were timed.
        file_bytes: Mean size of their files.
        first_read: Reading the files as they were found, in memory or not.
        read: Reading them again, from the system's memory.
        decode: From bytes to pixels.
        warp: Geometry and resize.
        colour: Colour, blur, noise, erasing.
        collate: The rest: drawing, targets, metadata, batch arrays, mixing.
    """

    num_images: int
    file_bytes: float
    first_read: float
    read: float
    decode: float
    warp: float
    colour: float
    collate: float

    @property
    def total(self) -> float:
        """Milliseconds of all parts."""
        return sum(getattr(self, part) for part in PARTS)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part in the total; they sum to 1."""
        return {part: getattr(self, part) / self.total for part in PARTS}


def time_loading(
    batches: Batches, source: Source, seconds: float = _SECONDS
) -> tuple[LoadTimes, list[Sample]]:
    """Make batches on this thread for some seconds, once whole and once part by part.

    Args:
        batches: The loader.
        source: What the loader was made from.
        seconds: How long, about; a batch at least.

    Returns:
        The times, and the samples that they are of.

    Raises:
        SampleError: A file cannot be read and may not be skipped, or none can.
    """
    samples: list[Sample] = []
    spent = dict.fromkeys(("first_read", "whole", "read", "decode", "warp", "colour"), 0.0)
    num_seen, started = 0, time.perf_counter()
    for position in range(len(batches)):
        rows = batches.rows_at(position)
        spent["first_read"] += take_samples(source, rows, num_seen)[1]
        taken, duration = take_samples(source, rows, num_seen)
        spent["read"] += duration
        begun = time.perf_counter()
        batches.batch_at(position)
        spent["whole"] += time.perf_counter() - begun
        for part, duration in time_parts(source, taken).items():
            spent[part] += duration
        samples += taken
        num_seen += len(rows)
        held = sum(_num_bytes(sample) for sample in samples)
        if time.perf_counter() - started > seconds or held > _BYTES:
            break
    if not samples:
        raise SampleError(f"{source.manifest.source}: none of the files looked at can be read")
    known = sum(spent[part] for part in PARTS if part in spent)
    spent["collate"] = max(spent.pop("whole") - known, 0.0)
    times = {part: 1000 * duration / len(samples) for part, duration in spent.items()}
    return LoadTimes(len(samples), held / len(samples), **times), samples


def sharp_side(source: Source, samples: Sequence[Sample]) -> int | None:
    """Find the short side to pack at: no longer than what the model can see of it.

    Args:
        source: How large the model sees the images.
        samples: Some of them, with the changes drawn for them.

    Returns:
        A multiple of 32 pixels at which nine of ten samples lose no sharpness; None where most
        images are hardly longer anyway.

    Raises:
        SampleError: A header cannot be read, and the file may not be skipped.
    """
    sizes = [augmentation.decode_size(sample.parameters, source.image_size) for sample in samples]
    needed = float(np.quantile([max(size) for size in sizes], _SHARP))
    side = int(-(-needed // _STEP)) * _STEP
    stored = _stored_sides(source, samples)
    return side if stored and side < 0.9 * float(np.median(stored)) else None


def _stored_sides(source: Source, samples: Sequence[Sample]) -> list[int]:
    """Short sides of images in pixels, without those that training leaves out."""
    sides = []
    for sample in samples:
        try:
            sides.append(min(probe(sample.image, source.data.decode)))
        except SampleError:
            if not source.skips:
                raise
    return sides


def repacked(source: Source, samples: Sequence[Sample], side: int, most: int = 64) -> list[Sample]:
    """Encode some samples again as `foveate pack --side` does, in memory.

    Args:
        source: Where they come from.
        samples: Which.
        side: Short side in pixels.
        most: How many at most.

    Returns:
        Those samples, smaller.
    """
    options = PackOptions(side)
    small = []
    for sample in samples[:most]:
        files = sample_files(
            source.manifest, sample.row, source.storage, source.data.decode, options, source.skips
        ).files
        image, mask = files[0][1], files[1][1] if sample.mask is not None else None
        small.append(
            replace(
                sample,
                image=replace(sample.image, data=image),
                mask=None if mask is None else Encoded(sample.image.name, mask),
            )
        )
    return small


def _num_bytes(sample: Sample) -> int:
    return len(sample.image.data) + (len(sample.mask.data) if sample.mask is not None else 0)
