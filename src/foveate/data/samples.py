"""Rows in, arrays out: what one thread does to make the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DecodeConfig
from foveate.config.tiles import TilesConfig
from foveate.data import augment as augmentation
from foveate.data.decode import decode_image, decode_pair
from foveate.data.features import MASKS, FeatureFiles
from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED, encode_mask
from foveate.data.metadata import MetadataSchema
from foveate.data.places import Place
from foveate.data.storage import Storage
from foveate.data.tile_reader import TileReader
from foveate.data.tiles import NUM_DRAWS
from foveate.data.unreadable import Unreadable
from foveate.errors import SampleError

_BLOCK = 4  # numbers of a Philox generator at each count
_NO_CHANGE = AugmentConfig(preset="none")

Arrays = tuple[dict[str, NDArray[Any]], NDArray[Any] | None, NDArray[np.float32] | None]
"""Inputs by name, targets if they are known, sample weights if there are any."""


class SampleReader:
    """Reads rows of a manifest into the arrays of a batch.

    Args:
        manifest: The rows.
        image_size: (height, width) in pixels.
        augment: Random changes; None only resizes.
        encode: As for `foveate.data.loader.BatchLoader`.
        metadata: The columns to read beside the image.
        decode: From file to pixels.
        seed: With epoch and place the only source of randomness.
        unreadable: What becomes of samples that cannot be read.
        storage: Gets what is no plain file of this machine.
        tiles: Cuts the samples out of images at full resolution, if they have a size.
        features: What a backbone made of the samples, to give in place of images and masks.
    """

    def __init__(
        self,
        manifest: Manifest,
        image_size: tuple[int, int],
        augment: AugmentConfig | None,
        encode: Callable[[Any], NDArray[Any]] | None,
        metadata: MetadataSchema | None,
        decode: DecodeConfig | None,
        seed: int,
        unreadable: Unreadable,
        storage: Storage,
        tiles: TilesConfig,
        features: FeatureFiles | None = None,
    ) -> None:
        self._manifest, self._image_size = manifest, image_size
        self._ranges = augmentation.resolve(augment or _NO_CHANGE)
        self._decode = decode or DecodeConfig()
        self._seed, self._unreadable = seed, unreadable
        self._storage, self._features = storage, features
        if features is not None:
            for row, (path, reason) in features.unreadable.items():
                unreadable.add(row, path, SampleError(reason))
        self._encode = encode if manifest.has_masks else None  # labels are encoded here and now
        has_labels = "label" in manifest.table.columns and not manifest.has_masks
        self._labels = label_ids(manifest, encode) if has_labels else None
        self._metadata = metadata.arrays(manifest) if metadata is not None else None
        self._weights = self._sample_weights()
        self._tiles = None
        if tiles.size is not None:
            self._tiles = TileReader(manifest, tiles, self._decode, self._encode, storage)

    def _sample_weights(self) -> NDArray[np.float32] | None:
        """Weights of all rows, (rows,), for masks (rows, 1, 1): as a loss a sample has."""
        if "weight" in self._manifest.table.columns:
            weights = self._manifest.table["weight"].to_numpy().astype(np.float32)
        elif self._unreadable.skips:
            weights = np.ones(self._manifest.num_samples, np.float32)
        else:
            return None
        return weights.reshape(-1, 1, 1) if self._manifest.has_masks else weights

    def empty(self, size: int) -> Arrays:
        """Make buffers for a batch; there is none for what `read` does not give."""
        height, width = self._image_size
        inputs: dict[str, NDArray[Any]] = {"images": np.empty((size, height, width, 3), np.uint8)}
        if self._features is not None:
            names = [name for name in self._features.shapes if name != MASKS]
            inputs = {name: self._features.empty(name, size) for name in names}
        for name, array in zip(("numeric", "categories"), self._metadata or (), strict=False):
            if array.shape[1]:
                inputs[name] = np.empty((size, array.shape[1]), array.dtype)
        weights = self._weights
        if weights is not None:
            weights = np.empty((size, *weights.shape[1:]), np.float32)
        if self._manifest.has_masks:
            return inputs, np.empty((size, height, width), np.uint8), weights
        return inputs, None if self._labels is None else np.empty(size, np.int32), weights

    def read(self, rows: NDArray[np.uint32], epoch: int, first: int) -> Arrays:
        """Read rows into new arrays.

        Args:
            rows: Row numbers, (B,).
            epoch: Decides the augmentation together with each row's place in the epoch.
            first: That place, of the first row.

        Returns:
            The arrays. A sample that may be skipped is black and has weight 0; each pixel of its
            mask is `IGNORED`.

        Raises:
            SampleError: A sample cannot be read and may not be skipped.
        """
        weights = None if self._weights is None else self._weights[rows]
        if self._features is None:
            inputs, targets, weights = self._read_files(rows, epoch, first, weights)
        else:
            inputs = self._features.read(rows, epoch)
            targets = inputs.pop(MASKS, None)
            if weights is not None:
                weights[self._unreadable.among(rows)] = 0
        if self._labels is not None:
            targets = self._labels[rows]
        for name, array in zip(("numeric", "categories"), self._metadata or (), strict=False):
            if array.shape[1]:
                inputs[name] = array[rows]
        return inputs, targets, weights

    def _read_files(
        self,
        rows: NDArray[np.uint32],
        epoch: int,
        first: int,
        weights: NDArray[np.float32] | None,
    ) -> Arrays:
        inputs, targets, _ = self.empty(len(rows))
        images = self._manifest.image_places(rows)
        masks = self._manifest.mask_places(rows) if self._manifest.has_masks else None
        # All at once: between two images the processor's caches have forgotten how.
        numbers = sample_numbers(self._seed, epoch, first, len(rows)).tolist()
        changes = [augmentation.sample(self._ranges, drawn) for drawn in numbers]
        for place, parameters in enumerate(changes):
            out, row = inputs["images"][place], int(rows[place])
            mask_place = masks[place] if masks is not None else None
            try:
                if self._tiles is None:
                    image, mask = self._decoded(images[place], mask_place, parameters)
                else:
                    draws = self._tile_draws(epoch, first + place)
                    image, mask = self._tiles.read(row, images[place], mask_place, draws)
                mask_out = targets[place] if mask is not None and targets is not None else None
                augmentation.apply(
                    image, parameters, self._image_size, mask, IGNORED, out, mask_out
                )
            except SampleError as error:
                self._unreadable.add(row, str(images[place]), error)
                out[:] = 0
                if masks is not None and targets is not None:
                    targets[place] = IGNORED
                if weights is not None:
                    weights[place] = 0
        return inputs, targets, weights

    def _decoded(
        self, path: Place, mask_path: Place | None, parameters: augmentation.Parameters
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Decode a whole image as large as is needed, and its mask if it has one."""
        needed = augmentation.decode_size(parameters, self._image_size)
        file = self._storage.fetch(path)
        if mask_path is None:
            return decode_image(file, self._decode, needed), None
        image, mask = decode_pair(file, self._storage.fetch(mask_path), self._decode, needed)
        return image, encode_mask(mask, str(mask_path), self._encode)

    def _tile_draws(self, epoch: int, place: int) -> list[float]:
        rng = random_generator(self._seed, epoch, place, stream=3)
        draws: list[float] = rng.random(NUM_DRAWS).tolist()
        return draws


def label_ids(
    manifest: Manifest, encode: Callable[[list[str]], NDArray[Any]] | None = None
) -> NDArray[np.int32]:
    """Turn the labels of all rows into class ids.

    Args:
        manifest: The rows, which have labels.
        encode: From different labels (N texts) to their ids, int32 (N,), such as `Task.encode`;
            the place among the manifest's class names when not given.

    Returns:
        Ids, int32 (rows,).
    """
    labels = manifest.table["label"]
    names = labels.unique()  # a million rows have a few classes
    texts: list[str] = names.cast(pl.String).to_list()
    ids = encode(texts) if encode is not None else map(manifest.class_names.index, texts)
    return labels.replace_strict(names, list(ids), return_dtype=pl.Int32).to_numpy()


def random_generator(seed: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    """Make the generator that belongs to one item and no other.

    Args:
        seed: The run's seed, below 2**31.
        epoch: Number of the epoch, below 2**31.
        index: Place or batch in the epoch, below 2**32.
        stream: What it is for, below 256: equal numbers elsewhere never share a stream.

    Returns:
        A counter-based generator (Philox; Salmon et al., 2011) keyed by all four.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch, index, stream)))


def sample_numbers(seed: int, epoch: int, first: int, count: int) -> NDArray[np.float64]:
    """Give the random numbers of samples, those of each place in an epoch its own.

    Args:
        seed: As `random_generator`.
        epoch: As `random_generator`.
        first: Place of the first sample in the epoch.
        count: Number of samples.

    Returns:
        Uniform numbers, 0 to below 1, float64 (count, `augment.NUM_DRAWS`); the rows are the
        same whatever the place that is counted from.
    """
    philox = np.random.Philox(key=_key(seed, epoch, 0, stream=0))
    philox.advance(first * augmentation.NUM_DRAWS // _BLOCK)
    return np.random.Generator(philox).random((count, augmentation.NUM_DRAWS))


def _key(seed: int, epoch: int, index: int, stream: int) -> NDArray[np.uint64]:
    return np.array([seed << 8 | stream, epoch << 32 | index], np.uint64)
