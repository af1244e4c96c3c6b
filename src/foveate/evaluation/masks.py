"""Predicted masks as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.config.settings import DecodeConfig
from foveate.data.decode import probe
from foveate.data.manifest import Manifest
from foveate.data.places import Place
from foveate.data.storage import Storage
from foveate.disk import write_atomically


def mask_names(manifest: Manifest) -> list[str]:
    """Name a PNG file for each row after its image; of equal names later ones get a number."""
    stems = [Path(manifest.image_path(row)).stem for row in range(manifest.num_samples)]
    taken, numbers, names = set(stems), dict[str, Iterator[int]](), []
    for stem in stems:
        name = stem
        if stem in numbers:
            numbered = (f"{stem}_{number}" for number in numbers[stem])
            name = next(name for name in numbered if name not in taken)
            taken.add(name)
        numbers.setdefault(stem, count(2))
        names.append(f"{name}.png")
    return names


def write_masks(
    paths: Sequence[Path],
    images: Sequence[Place],
    masks: NDArray[np.uint8],
    decode: DecodeConfig,
    cache_bytes: int,
) -> None:
    """Write masks (B, H, W) at the sizes of their images."""
    with Storage(cache_bytes) as storage:
        for path, image, mask in zip(paths, images, masks, strict=True):
            height, width = probe(storage.fetch(image), decode)
            if mask.shape != (height, width):
                mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            write_atomically(path, cv2.imencode(".png", mask)[1].tobytes())
