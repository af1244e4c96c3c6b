"""The work of a loader taken apart: its own functions, on files held in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DataConfig
from foveate.data import augment as augmentation
from foveate.data.color import degrade, recolor
from foveate.data.decode import decode_image, decode_pair
from foveate.data.header import named, read
from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED
from foveate.data.places import Encoded, Place
from foveate.data.samples import sample_numbers
from foveate.data.storage import Storage
from foveate.data.warp import warp_image, warp_mask
from foveate.errors import SampleError

_SECONDS = 1.0  # that a rate is measured for
_CHUNK = 16  # calls that a thread makes at once

Item = TypeVar("Item")


@dataclass(frozen=True)
class Source:
    """How files become samples; a run's settings.

    Attributes:
        manifest: The rows.
        image_size: (height, width) in pixels that the model sees.
        augment: Random changes.
        data: From file to pixels, and what becomes of files that cannot be read.
        seed: Of the run.
        storage: Gets what is no plain file.
    """

    manifest: Manifest
    image_size: tuple[int, int]
    augment: AugmentConfig
    data: DataConfig
    seed: int
    storage: Storage

    @property
    def skips(self) -> bool:
        """Whether files that cannot be read are left out."""
        return self.data.unreadable == "skip"


@dataclass(frozen=True)
class Sample:
    """The files of a row in memory, and the changes drawn for it."""

    row: int
    image: Encoded
    mask: Encoded | None
    parameters: augmentation.Parameters


def take_samples(
    source: Source, rows: NDArray[np.uint32], first: int
) -> tuple[list[Sample], float]:
    """Read the files of rows, and draw their changes as the first epoch does.

    Args:
        source: Where from.
        rows: Row numbers, (B,).
        first: Place of the first of them in the epoch.

    Returns:
        A sample a row, without those that cannot be read where they may be skipped; and the
        seconds that reading took.

    Raises:
        SampleError: A file cannot be read and may not be skipped.
    """
    ranges = augmentation.resolve(source.augment)
    numbers = sample_numbers(source.seed, 0, first, len(rows)).tolist()
    samples, spent = [], 0.0
    for row, places, drawn in zip(rows.tolist(), _places(source, rows), numbers, strict=True):
        parameters = augmentation.sample(ranges, drawn)
        started = time.perf_counter()
        try:
            image, *masks = [_fetch(source, place) for place in places]
        except SampleError:
            if not source.skips:
                raise
            continue
        spent += time.perf_counter() - started
        samples.append(Sample(row, image, masks[0] if masks else None, parameters))
    return samples, spent


def time_parts(source: Source, samples: Sequence[Sample]) -> dict[str, float]:
    """Time what follows reading.

    Args:
        source: How.
        samples: What.

    Returns:
        Seconds for all samples together, by part.

    Raises:
        SampleError: A file cannot be decoded and may not be skipped.
    """
    spent = dict.fromkeys(("decode", "warp", "colour"), 0.0)
    out = np.empty((*source.image_size, 3), np.uint8)
    mask_out = np.empty(source.image_size, np.uint8)
    for sample in samples:
        parameters = sample.parameters
        started = time.perf_counter()
        try:
            image, mask = _decoded(source, sample)
        except SampleError:
            if not source.skips:
                raise
            continue
        decoded = time.perf_counter()
        warped = warp_image(image, parameters.geometry, source.image_size, out)
        if mask is not None:
            warp_mask(mask, parameters.geometry, source.image_size, IGNORED, mask_out)
        moved = time.perf_counter()
        recolor(warped, parameters.color)
        degrade(warped, parameters.quality)
        spent["decode"] += decoded - started
        spent["warp"] += moved - decoded
        spent["colour"] += time.perf_counter() - moved
    return spent


def decode_rate(source: Source, samples: Sequence[Sample], threads: int) -> float:
    """Measure decoding alone, from memory, in images a second of all threads together."""

    def decode(sample: Sample) -> None:
        try:
            _decoded(source, sample)
        except SampleError:
            if not source.skips:
                raise

    return _rate(decode, samples, threads)


def read_rate(source: Source, samples: Sequence[Sample], threads: int) -> float:
    """Measure reading alone, again, in images a second of all threads together."""
    rows = np.array([sample.row for sample in samples], np.uint32)

    def fetch(places: tuple[Place, ...]) -> None:
        for place in places:
            _fetch(source, place)

    return _rate(fetch, _places(source, rows), threads)


def _places(source: Source, rows: NDArray[np.uint32]) -> list[tuple[Place, ...]]:
    """Where the image of each row lies, and its mask if there is one."""
    images = source.manifest.image_places(rows)
    if not source.manifest.has_masks:
        return [(image,) for image in images]
    return list(zip(images, source.manifest.mask_places(rows), strict=True))


def _fetch(source: Source, place: Place) -> Encoded:
    file = source.storage.fetch(place)
    with named(file):
        return Encoded(str(place), read(file, source.data.decode).data)


def _decoded(source: Source, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    needed = augmentation.decode_size(sample.parameters, source.image_size)
    if sample.mask is None:
        return decode_image(sample.image, source.data.decode, needed), None
    return decode_pair(sample.image, sample.mask, source.data.decode, needed)


def _rate(function: Callable[[Item], object], items: Sequence[Item], threads: int) -> float:
    """Call a function on items over and over in threads; returns calls a second."""
    done, started = 0, time.perf_counter()
    chunks = cycle([items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)])
    with ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(_each, function, next(chunks)) for _ in range(2 * threads)]
        while (elapsed := time.perf_counter() - started) < _SECONDS or not done:
            done += ahead.pop(0).result()
            ahead.append(pool.submit(_each, function, next(chunks)))
        pool.shutdown(cancel_futures=True)
    return done / elapsed


def _each(function: Callable[[Item], object], items: Sequence[Item]) -> int:
    for item in items:
        function(item)
    return len(items)
