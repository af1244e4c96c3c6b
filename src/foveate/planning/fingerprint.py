"""What the data is: how many files of which kind and size, from the headers of some of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.config.settings import RunConfig
from foveate.data.decode import probe
from foveate.data.header import suffix
from foveate.data.manifest import Manifest
from foveate.data.places import Encoded
from foveate.data.storage import Storage
from foveate.errors import SampleError

_LOOKED_AT = 100  # rows, spread evenly


@dataclass(frozen=True)
class Fingerprint:
    """What a dataset is made of, as far as some of its files tell.

    Attributes:
        num_rows: Samples of all splits.
        num_looked_at: Files that the rest was learned from.
        median_size: (height, width) of the images in pixels.
        largest_size: (height, width) of the one with most pixels.
        formats: Share of the files by their usual suffix, the most frequent first.
        file_bytes: Mean size of an image file.
    """

    num_rows: int
    num_looked_at: int
    median_size: tuple[int, int]
    largest_size: tuple[int, int]
    formats: dict[str, float]
    file_bytes: float

    def __str__(self) -> str:
        formats = ", ".join(f"{share:.0%} {name}" for name, share in self.formats.items())
        size = self.file_bytes / 1024
        return (
            f"{self.num_rows:,} images, {formats}, mostly {_size(self.median_size)}, up to "
            f"{_size(self.largest_size)} pixels, {size:,.{0 if size >= 10 else 1}f} KiB each"
        )


def fingerprint(manifest: Manifest, config: RunConfig) -> Fingerprint:
    """Look at some files of a dataset.

    Args:
        manifest: The rows.
        config: How to read them; files that cannot be read are left out here.

    Returns:
        What they are like.

    Raises:
        SampleError: None of them can be read.
    """
    count = min(_LOOKED_AT, manifest.num_samples)
    rows = np.linspace(0, manifest.num_samples - 1, count).astype(np.int64)
    sizes, formats, num_bytes = [], Counter[str](), 0
    problem: SampleError | None = None
    with Storage(config.cache_bytes) as storage:
        for place in manifest.image_places(rows):
            try:
                file = storage.fetch(place)
                data = file.data if isinstance(file, Encoded) else Path(file).read_bytes()
                sizes.append(probe(Encoded(str(place), data), config.data.decode))
            except OSError as error:
                problem = SampleError(f"{place} must be readable, but got: {error.strerror}.")
                continue
            except SampleError as error:
                problem = error
                continue
            formats[suffix(data)] += 1
            num_bytes += len(data)
    if not sizes and problem is not None:
        raise problem
    height, width = np.median(np.array(sizes), axis=0)
    return Fingerprint(
        manifest.num_samples,
        len(sizes),
        (int(height), int(width)),
        max(sizes, key=lambda size: size[0] * size[1]),
        {name: times / len(sizes) for name, times in formats.most_common()},
        num_bytes / len(sizes),
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
