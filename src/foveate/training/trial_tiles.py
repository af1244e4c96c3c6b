"""What a trial must know of images that are read in tiles: a run decodes them as it goes on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import polars as pl

from foveate.config.settings import RunConfig
from foveate.data.listing import SPLITS
from foveate.data.storage import Storage
from foveate.data.tile_reader import TileReader
from foveate.errors import SampleError
from foveate.planning.memory import forget_peak, peak_bytes, resident_bytes
from foveate.training.prepare import Prepared

_FEW = 2


def few_images(prepared: Prepared, num_tiles: int) -> Prepared:
    """Keep the largest images of each split: in a run one is decoded for very many tiles.

    Args:
        prepared: What is to be learned, from images in tiles.
        num_tiles: As many are needed of each split, if there are; with fewer a loader would make
            its batches smaller.
    """
    table = prepared.manifest.table.with_columns(
        pixels=pl.col("height").cast(pl.Int64) * pl.col("width")
    )
    largest = table.sort("pixels", descending=True, maintain_order=True).drop("pixels")

    def kept(images: pl.DataFrame) -> Prepared:
        return replace(prepared, manifest=replace(prepared.manifest, table=images))

    splits = []
    for name in SPLITS:
        images, few = largest.filter(pl.col("split") == name), _FEW
        while few < images.height and kept(images.head(few)).rows(name).num_samples < num_tiles:
            few *= 2
        splits.append(images.head(few))
    return kept(pl.concat(splits))


def decoding_bytes(prepared: Prepared, config: RunConfig) -> int:
    """Decode all images, and measure the memory that it takes for a moment.

    In a run that moment may come at any time; in the trial that follows it does not come again.

    Args:
        prepared: What is to be learned, from a few images in tiles.
        config: The settings.
    """
    forget_peak()
    before = resident_bytes()
    with Storage(config.cache_bytes) as storage:
        manifest = prepared.manifest
        tiles = TileReader(manifest, prepared.tiles, config.data.decode, None, storage)
        for row in range(manifest.num_samples):
            with suppress(SampleError):  # what the run does about it, it says itself
                tiles.ids(row, 0, 1)
    decoding = max(peak_bytes() - before, 0)
    forget_peak()
    return decoding
