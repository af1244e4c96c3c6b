"""From a position to a batch: a pure function, free of Keras, that may be sent to a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DecodeConfig
from foveate.config.tiles import TilesConfig
from foveate.data import augment as augmentation
from foveate.data.features import FeatureFiles
from foveate.data.manifest import Manifest
from foveate.data.metadata import MetadataSchema
from foveate.data.order import check_sampling, epoch_rows
from foveate.data.samples import SampleReader, random_generator
from foveate.data.storage import Storage
from foveate.data.unreadable import Unreadable
from foveate.errors import ConfigError, ManifestError

Batch = tuple[Any, ...]

REMAINDERS = ("keep", "pad", "drop")


@dataclass(frozen=True)
class Drawing:
    """Which rows an epoch holds, in which order, in what batches; see `BatchLoader`."""

    batch_size: int
    shuffle: bool
    sampling: str
    repeat: int
    remainder: str
    cycle: int
    seed: int
    images_at_once: int | None = None


class Batches:
    """All batches of all epochs, each computed when asked for.

    Args:
        manifest: The rows.
        image_size: (height, width) in pixels.
        drawing: Which rows, in which order.
        augment: Random changes; None only resizes.
        encode: As for `foveate.data.loader.BatchLoader`, and so on.
        num_classes: Number of classes, for mixed labels.
        metadata: The columns to read beside the image.
        decode: From file to pixels.
        storage: Gets what is no plain file of this machine.
        unreadable: What becomes of samples that cannot be read.
        tiles: Cuts samples out of images, if they have a size.
        features: What a backbone made of them, to give in place of images and masks.

    Attributes:
        batch_size: Samples in a full batch: as asked for, or fewer where the rows make no whole
            cycle.
        num_batches: Batches in an epoch.
        last_size: Samples in the last of them.

    Raises:
        ManifestError: There are no rows.
        ConfigError: The options exclude each other.
    """

    def __init__(
        self,
        manifest: Manifest,
        image_size: tuple[int, int],
        drawing: Drawing,
        augment: AugmentConfig | None,
        encode: Callable[[Any], NDArray[Any]] | None,
        num_classes: int | None,
        metadata: MetadataSchema | None,
        decode: DecodeConfig | None,
        storage: Storage,
        unreadable: Unreadable,
        tiles: TilesConfig,
        features: FeatureFiles | None = None,
    ) -> None:
        mixes = augment is not None and bool(augment.mix.mixup or augment.mix.cutmix)
        _check(manifest, drawing, mixes)
        self._manifest, self._drawing = manifest, drawing
        num_rows = manifest.num_samples * drawing.repeat
        self.batch_size, self.num_batches = _divide(num_rows, drawing)
        kept = num_rows - (self.num_batches - 1) * self.batch_size
        is_short = drawing.remainder == "keep" and kept < self.batch_size
        self.last_size = kept if is_short else self.batch_size
        if drawing.sampling == "weighted":  # the weights are spent on the choice
            manifest = replace(manifest, table=manifest.table.drop("weight"))
        self._samples = SampleReader(
            manifest, image_size, augment, encode, metadata, decode, drawing.seed, unreadable,
            storage, tiles, features,
        )  # fmt: skip
        self._mix = augment.mix if augment is not None and mixes else None
        self._num_classes = num_classes or len(manifest.class_names)
        self._order = lru_cache(maxsize=2)(self._new_order)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._order = lru_cache(maxsize=2)(self._new_order)

    def at(self, position: int) -> Batch:
        """Compute the batch at a position, counted in batches from the beginning of epoch 0."""
        epoch, index = divmod(position, self.num_batches)
        rows = self.rows_at(position)
        inputs, targets, weights = self._samples.read(rows, epoch, index * self.batch_size)
        if targets is not None and self._mix is not None and targets.ndim == 1:
            targets = np.eye(self._num_classes, dtype=np.float32)[targets]
            # Weights are those of `unreadable` alone here: nothing may be blended with a gap.
            if weights is None or weights.all():
                rng = random_generator(self._drawing.seed, epoch, index, stream=1)
                inputs["images"], targets = augmentation.mix_batch(
                    inputs["images"], targets, self._mix, rng
                )
        if self._drawing.remainder == "pad":
            return _padded(inputs, targets, weights, self.batch_size)
        return _batch(inputs, targets, weights)

    def rows_at(self, position: int) -> NDArray[np.uint32]:
        """Say which rows of the manifest the batch at a position holds, (B,) uint32."""
        epoch, index = divmod(position, self.num_batches)
        return self._order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]

    def empty(self) -> Batch:
        """Give a batch without samples, for its structure, shapes and types."""
        inputs, targets, weights = self._samples.empty(0)
        if targets is not None and self._mix is not None and targets.ndim == 1:
            targets = np.empty((0, self._num_classes), np.float32)
        if self._drawing.remainder == "pad":
            return _padded(inputs, targets, weights, 0)
        return _batch(inputs, targets, weights)

    def _new_order(self, epoch: int) -> NDArray[np.uint32]:
        drawing = self._drawing
        rng = random_generator(drawing.seed, epoch, 0, stream=2)
        return epoch_rows(
            self._manifest, rng, drawing.shuffle, drawing.sampling, drawing.repeat,
            drawing.images_at_once,
        )  # fmt: skip


def _check(manifest: Manifest, drawing: Drawing, mixes: bool) -> None:
    if manifest.num_samples == 0:
        raise ManifestError(f"A loader needs rows, but {manifest.source} has none.")
    if mixes and "weight" in manifest.table.columns and drawing.sampling != "weighted":
        raise ConfigError(
            "augment.mix blends samples, so they must weigh alike, but got sample weights. "
            "Set mixup and cutmix to 0, leave data.weight out, or set loader.sampling to weighted."
        )
    if drawing.remainder not in REMAINDERS:
        raise ConfigError(
            f"remainder must be one of {', '.join(REMAINDERS)}, but got {drawing.remainder!r}."
        )
    if drawing.cycle > 1 and drawing.remainder != "drop":
        raise ConfigError(
            f'A cycle needs remainder="drop", but got cycle={drawing.cycle} with '
            f"remainder={drawing.remainder!r}."
        )
    check_sampling(manifest, drawing.sampling, drawing.shuffle)


def _divide(num_rows: int, drawing: Drawing) -> tuple[int, int]:
    """Samples in a batch, and batches in an epoch."""
    if drawing.remainder != "drop":
        return drawing.batch_size, -(-num_rows // drawing.batch_size)
    cycle = min(drawing.cycle, num_rows)
    batch_size = min(drawing.batch_size, num_rows // cycle)
    return batch_size, num_rows // (batch_size * cycle) * cycle


def _batch(inputs: dict[str, Any], targets: Any, weights: Any) -> Batch:
    if targets is None:
        return (inputs,)
    return (inputs, targets) if weights is None else (inputs, targets, weights)


def _padded(inputs: dict[str, Any], targets: Any, weights: Any, size: int) -> Batch:
    """Repeat the last sample up to the batch size, with weight 0."""
    found = len(next(iter(inputs.values())))
    if targets is not None and weights is None:
        weights = np.ones((found, 1, 1) if targets.ndim == 3 else found, np.float32)
    missing = size - found
    if missing <= 0:
        return _batch(inputs, targets, weights)
    inputs = {name: _lengthened(array, missing) for name, array in inputs.items()}
    if targets is None:
        return (inputs,)
    weights = _lengthened(weights, missing)
    weights[found:] = 0
    return inputs, _lengthened(targets, missing), weights


def _lengthened(array: NDArray[Any], by: int) -> NDArray[Any]:
    return np.concatenate([array, np.repeat(array[-1:], by, axis=0)])
