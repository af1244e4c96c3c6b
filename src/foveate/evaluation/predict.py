"""Stream a split or files through a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.config.settings import DecodeConfig, RunConfig
from foveate.config.tiles import TilesConfig
from foveate.data.decode import probe
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.data.metadata import MetadataSchema
from foveate.data.storage import Storage
from foveate.data.tiles import grid, require_room, with_sizes
from foveate.data.unlabelled import read_unlabelled
from foveate.errors import SampleError
from foveate.evaluation.masks import mask_names, write_masks
from foveate.evaluation.stitch import Band, blended, whole_images
from foveate.models.bundle import Bundle, load_bundle
from foveate.runs import Run
from foveate.scale import runtime
from foveate.tasks.base import Task
from foveate.tasks.build import task_from_dict
from foveate.tasks.segmentation import Segmentation


class Judged(NamedTuple):
    """Samples and what the model made of them.

    Attributes:
        rows: Their rows in the manifest, (B,) uint32.
        images: As the model sees them, uint8 (B, H, W, 3).
        targets: Class ids (B,) or (B, H, W); None if not known.
        logits: float32 (B, K) or (B, H, W, K).
    """

    rows: NDArray[np.uint32]
    images: NDArray[np.uint8]
    targets: Any
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Predictor:
    """A bundle made ready to read files.

    Attributes:
        bundle: The trained model and its description.
        task: What it predicts.
        schema: Metadata columns it needs; None without metadata.
        decode: From file to pixels, as in training.
        image_size: (height, width) it sees.
        tiles: How images are cut into tiles, if they are.
    """

    bundle: Bundle
    task: Task
    schema: MetadataSchema | None
    decode: DecodeConfig
    image_size: tuple[int, int]
    tiles: TilesConfig

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Read a model folder.

        Args:
            folder: ``RUN/model``.

        Returns:
            The predictor, compiled for this machine.

        Raises:
            RunError: There is no trained model.
        """
        bundle = load_bundle(folder)
        bundle.model.compile(jit_compile=runtime.jit_compile())
        said = bundle.description
        height, width = said["image_size"]
        return cls(
            bundle,
            task_from_dict(said["task"]),
            MetadataSchema.from_dict(said["metadata"]) if said["metadata"] else None,
            DecodeConfig.model_validate(said["decode"]),
            (height, width),
            TilesConfig.model_validate(said.get("tiles", {})),
        )

    def loader(
        self, manifest: Manifest, config: RunConfig, unreadable: str = "fail"
    ) -> BatchLoader:
        """Make a loader of rows in their order, as this model wants them.

        Args:
            manifest: The rows; of tiles, if images are cut into tiles.
            config: The run's settings: batch size, threads and queue are what fitted there.
            unreadable: What a file that cannot be read does: ``fail`` or ``skip``.
        """
        return BatchLoader(
            manifest,
            self.image_size,
            min(config.batch_size, manifest.num_samples),
            encode=self.task.encode,
            num_classes=self.task.num_outputs,
            metadata=self.schema,
            decode=self.decode,
            remainder="pad",  # one shape, for which the model is compiled once
            threads=config.loader.threads,
            queue_bytes=config.loader.queue,
            cache_bytes=config.cache_bytes,
            unreadable=unreadable,
            max_unreadable=config.data.max_unreadable,
            tiles=self.tiles,
            epochs=1,
        )

    def stream(self, loader: BatchLoader) -> Iterator[Judged]:
        """Run the rows of a loader through the model, without those that cannot be read.

        Args:
            loader: One of `loader`'s.

        Yields:
            A batch of them.
        """
        try:
            for index, (inputs, *rest) in enumerate(loader):
                rows = loader.rows_at(index)
                skipped = loader.skipped(rows)
                if skipped.all():
                    continue
                logits = np.asarray(self.bundle.model.predict_on_batch(inputs))
                # Without padding; a slice copies nothing.
                kept = np.flatnonzero(~skipped) if skipped.any() else slice(len(rows))
                targets = rest[0][kept] if rest else None
                yield Judged(rows[kept], inputs["images"][kept], targets, logits[kept])
        finally:
            loader.close()

    def images(self, loader: BatchLoader) -> Iterator[NDArray[np.uint8]]:
        """Read the rows of a loader alone, without those that cannot be read.

        Args:
            loader: One of `loader`'s.

        Yields:
            Images of a batch, (B, H, W, 3) uint8.
        """
        try:
            for index, (inputs, *_) in enumerate(loader):
                rows = loader.rows_at(index)
                yield inputs["images"][: len(rows)][~loader.skipped(rows)]
        finally:
            loader.close()

    def tile_rows(
        self, manifest: Manifest, config: RunConfig, unreadable: str = "fail"
    ) -> Manifest:
        """Make a row of each tile that is needed to predict on images, see `stream`.

        Args:
            manifest: Rows of images.
            config: As `loader`.
            unreadable: As `loader`; with ``skip`` such an image is a single tile.

        Raises:
            SampleError: A header cannot be read.
            ConfigError: An image is too large for the cache.
        """
        sizes = []
        with Storage(config.cache_bytes) as storage:
            for place in manifest.image_places(np.arange(manifest.num_samples)):
                try:
                    sizes.append(probe(storage.fetch(place), self.decode))
                except SampleError:
                    if unreadable == "fail":
                        raise
                    sizes.append((0, 0))
        manifest = with_sizes(manifest, sizes)
        require_room(manifest, config.cache_bytes)
        return grid(manifest, self.tile_size, self.tiles.overlap)

    def bands(self, judged: Iterable[Judged], tiles: Manifest) -> Iterator[Band]:
        """Blend what the model made of overlapping tiles, see `foveate.evaluation.stitch`.

        Args:
            judged: What `stream` gives for `tiles`.
            tiles: Rows of `tile_rows`.
        """
        pairs = (
            pair
            for batch in judged
            for pair in zip(batch.rows.tolist(), batch.logits, strict=True)
        )
        return blended(pairs, tiles, self.tile_size)

    @property
    def tile_size(self) -> tuple[int, int]:
        """(height, width) of a tile in pixels of the image."""
        return self.tiles.size or self.image_size


def predict(
    run: str | Path | Run,
    files: Sequence[str | Path],
    masks: str | Path | None = None,
    unreadable: str | None = None,
) -> pl.DataFrame:
    """Predict what files show.

    Args:
        run: A run folder or a Run.
        files: Image files, folders of them, or one CSV or Parquet table with the image column
            and the metadata columns the model was trained with.
        masks: Folder for predicted masks, PNG files of the image's own size that hold the mask
            values of the training data (segmentation only).
        unreadable: What a file that cannot be read does: ``fail`` or ``skip``; as in training
            when None.

    Returns:
        A row an image: ``image``, then ``predicted``, ``confidence`` and
        ``probability.<class>``, or for masks ``mask`` and ``share.<class>`` (share of pixels).
        Where files were skipped, their rows hold nothing but ``image`` and ``problem``.

    Raises:
        RunError: The run has no trained model.
        ManifestError: There is nothing to read, or metadata is missing.
        SampleError: A file cannot be read and may not be skipped, or none can.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    predictor = Predictor.load(opened.model_folder)
    config = opened.config()
    policy = {"unreadable": unreadable or config.data.unreadable, "max_unreadable": 1.0}
    config = config.model_copy(update={"data": config.data.model_copy(update=policy)})
    manifest = read_unlabelled([Path(file) for file in files], config.data, predictor.schema)
    names = mask_names(manifest)
    loader = _loader(predictor, manifest, config)
    parts = []
    for rows, columns in _predictions(predictor, loader):
        pictures = columns.pop("mask", None)
        if pictures is not None and masks is not None:
            paths = [Path(masks) / names[row] for row in rows]
            places = manifest.image_places(rows)
            write_masks(paths, places, pictures, predictor.decode, config.cache_bytes)
            columns["mask"] = np.asarray([str(path) for path in paths], dtype=object)
        parts.append(pl.DataFrame({"row": rows.astype(np.uint32), **columns}))
    return _table(manifest, pl.concat(parts), loader.unreadable)


def _table(
    manifest: Manifest, predictions: pl.DataFrame, unreadable: Mapping[str, str]
) -> pl.DataFrame:
    """Put predictions beside their images, and reasons where there are none."""
    places = manifest.image_places(np.arange(manifest.num_samples))
    table = pl.DataFrame({"image": [str(place) for place in places]}).with_row_index("row")
    table = table.join(predictions, on="row", how="left", maintain_order="left").drop("row")
    if not unreadable:
        return table
    reasons = {path: reason.removeprefix(path).strip() for path, reason in unreadable.items()}
    problems = pl.col("image").replace_strict(reasons, default=None, return_dtype=pl.String)
    return table.with_columns(problem=problems)


def _loader(predictor: Predictor, manifest: Manifest, config: RunConfig) -> BatchLoader:
    """Make a loader of images, or of their overlapping tiles."""
    unreadable = config.data.unreadable
    if predictor.tiles.size is not None:
        manifest = predictor.tile_rows(manifest, config, unreadable)
    return predictor.loader(manifest, config, unreadable)


def _predictions(
    predictor: Predictor, loader: BatchLoader
) -> Iterator[tuple[NDArray[np.integer], dict[str, NDArray[Any]]]]:
    """Yield rows and what is predicted of them, masks of tiled images at their own size."""
    task, stream = predictor.task, predictor.stream(loader)
    if predictor.tiles.size is None or not isinstance(task, Segmentation):
        for judged in stream:
            yield judged.rows, task.decode(judged.logits)
        return
    for whole in whole_images(predictor.bands(stream, loader.manifest)):
        mask = task.mask_values(whole.ids[None])
        yield np.array([whole.image]), {"mask": mask, **task.share_columns(whole.shares)}
