"""What a trial must know of images that are read in tiles: a run decodes them as it goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from foveate.config.settings import RunConfig
from foveate.data.listing import SPLITS
from foveate.data.storage import Storage
from foveate.data.tile_reader import TileReader
from foveate.planning.memory import forget_peak, peak_bytes, resident_bytes
from foveate.training.prepare import Prepared

_FEW = 2


def decoding_bytes(prepared: Prepared, config: RunConfig) -> int:
    """Measure the memory that decoding the largest image takes for a moment.

    In a run that moment may come at any time, in a trial it comes before the first step.

    Args:
        prepared: What is to be learned, from images in tiles.
        config: The settings.
    """
    manifest = prepared.manifest
    sizes = manifest.table.select("height", "width").to_numpy().astype(np.int64)
    largest = int(sizes.prod(axis=1).argmax())
    forget_peak()
    before = resident_bytes()
    with Storage(int(config.loader.cache)) as storage:
        tiles = TileReader(manifest, prepared.tiles, config.data.decode, None, storage)
        tiles.ids(largest, 0, 1)
    return max(peak_bytes() - before, 0)


def few_images(prepared: Prepared) -> Prepared:
    """Keep a few images of each split: in a run each is decoded once for very many tiles."""
    splits = [prepared.manifest.split(name).table.head(_FEW) for name in SPLITS]
    return replace(prepared, manifest=replace(prepared.manifest, table=pl.concat(splits)))
