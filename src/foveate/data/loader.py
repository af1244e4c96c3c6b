"""BatchLoader: (seed, epoch, position) -> batch.

A position counts batches over all epochs; it alone says which rows a batch holds and how they
are augmented. Grain's threads compute the positions ahead into a bounded queue, whose one
iterator is ours; Keras gets a door that hands out what is next and never permutes it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from numpy.typing import NDArray

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DecodeConfig, LoaderConfig
from foveate.data import augment as augmentation
from foveate.data.manifest import Manifest
from foveate.data.metadata import MetadataSchema
from foveate.data.order import shuffled
from foveate.data.samples import SampleReader, random_generator
from foveate.data.storage import Storage
from foveate.data.unreadable import Unreadable
from foveate.errors import ConfigError, ManifestError

Batch = tuple[Any, ...]

_ENDLESS = 2**62


class BatchLoader(keras.utils.PyDataset, DataAdapter):
    """Streams batches of a manifest into `fit`, `evaluate`, `predict` or a loop.

    ``model.fit(loader, validation_data=other)`` works on every Keras backend. A batch is
    ``(inputs, targets)``; ``(inputs, targets, sample_weight)`` where the manifest has weights;
    ``(inputs,)`` where it has neither labels nor masks:

    - ``inputs``: dict with ``images`` uint8 (B, H, W, 3) and, with a `metadata` schema,
      ``numeric`` float32 (B, M), NaN where missing, and ``categories`` int32 (B, N), 0 where
      missing and 1 where unknown (each only if there are such columns);
    - ``targets``: labels int32 (B,), mixed labels float32 (B, K), or masks uint8 (B, H, W);
    - ``sample_weight``: float32 (B,), for masks (B, 1, 1).

    With ``unreadable="skip"`` a sample that cannot be read is black, all of its mask is ignored,
    and it weighs 0; targets then always come with weights. Compile with ``weighted_metrics`` to
    keep it out of the metrics, too. Mixing leaves a batch with such a sample unmixed.

    Iterating gives one epoch; the epoch advances when its last batch has been handed out, and an
    iteration given up half-way starts the same epoch anew. Keras hands nothing but batches
    through this door: give `class_weight` here as sample weights of the manifest or in the loss,
    since ``fit(class_weight=...)`` does not reach it.

    Args:
        manifest: The rows to read, usually one split.
        image_size: (height, width) in pixels.
        batch_size: Samples in a batch.
        shuffle: Whether each epoch has a new order: over all rows, or of remote shards and of
            the rows within some of them.
        augment: Random changes of the training images; None only resizes.
        encode: From different labels (N texts) to int32 ids (N,), or from one mask
            (H, W) uint8 to class ids (H, W) uint8; `Task.encode`. Default: place among
            `manifest.class_names`; masks as stored.
        num_classes: Number of classes, for mixed labels; default: those of the manifest.
        metadata: The columns to feed beside the image.
        decode: From file to pixels.
        drop_remainder: Whether to leave out the last short batch of an epoch.
        cycle: Number of batches of which an epoch holds a whole multiple (gradient
            accumulation); needs `drop_remainder`.
        seed: With epoch and position the only source of randomness.
        threads: Threads that read, decode and augment; one per processor when None.
        queue_bytes: Most memory of the batches that wait or are being made.
        cache_bytes: Most disk space for what is read from far away.
        unreadable: ``fail`` stops at a sample that cannot be read, ``skip`` goes on without it.
        max_unreadable: Share of the rows, 0 to 1, above which ``skip`` stops as well.

    Attributes:
        epoch: Number of the epoch that the next iteration gives; may be set.
        first_batch: Batch of that epoch that it begins with, see `resume_at`.
        wait_seconds: Time spent waiting for batches so far.
        failure: What stopped the reading, if anything: TensorFlow wraps it beyond recognition.

    Raises:
        ManifestError: There are no rows.
        ConfigError: A cycle without dropping the remainder, or mixing of weighted samples.
    """

    def __init__(
        self,
        manifest: Manifest,
        image_size: tuple[int, int],
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        augment: AugmentConfig | None = None,
        encode: Callable[[Any], NDArray[Any]] | None = None,
        num_classes: int | None = None,
        metadata: MetadataSchema | None = None,
        decode: DecodeConfig | None = None,
        drop_remainder: bool = False,
        cycle: int = 1,
        seed: int = 0,
        threads: int | None = None,
        queue_bytes: int = 256 * 1024**2,
        cache_bytes: int = LoaderConfig().cache,
        unreadable: str = "fail",
        max_unreadable: float = 0.01,
    ) -> None:
        super().__init__()
        if manifest.num_samples == 0:
            raise ManifestError(f"A loader needs rows, but {manifest.source} has none.")
        mixes = augment is not None and bool(augment.mix.mixup or augment.mix.cutmix)
        if mixes and "weight" in manifest.table.columns:
            raise ConfigError(
                "augment.mix blends samples, so they must weigh alike, but got sample weights. "
                "Set mixup and cutmix to 0, or leave data.weight out."
            )
        if cycle > 1 and not drop_remainder:
            raise ConfigError(f"A cycle needs drop_remainder=True, but got {cycle=} without it.")
        self.manifest = manifest
        self._batch_size = batch_size
        self.epoch = self.first_batch = 0
        self.wait_seconds = 0.0
        self.failure: Exception | None = None
        self._unreadable = Unreadable(
            unreadable, max_unreadable, manifest.num_samples, manifest.source
        )
        self._storage = Storage(cache_bytes, sweeps=shuffle)
        self._samples = SampleReader(
            manifest,
            image_size,
            augment,
            encode,
            metadata,
            decode,
            seed,
            self._unreadable,
            self._storage,
        )
        self._mix = augment.mix if augment is not None and mixes else None
        self._num_classes = num_classes or len(manifest.class_names)
        self._shuffle, self._seed = shuffle, seed
        self._num_batches = self._count_batches(drop_remainder, cycle)
        self._threads = threads or os.cpu_count() or 1
        batch_bytes = self.batch_size * image_size[0] * image_size[1] * 4
        self._buffer = min(max(queue_bytes // batch_bytes, 1), max(4 * self._threads, 16))
        self._order = lru_cache(maxsize=2)(self._new_order)
        self._lock = threading.Lock()
        self._iterator: Any = None
        self._iterator_position = -1

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> Batch:
        """Compute one batch of the current epoch, on the calling thread."""
        if not -self._num_batches <= index < self._num_batches:
            raise IndexError(f"An epoch has {self._num_batches} batches, but got index {index}.")
        return self.batch_at(self.epoch * self._num_batches + index % self._num_batches)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch, self.first_batch
        for index in range(first, self._num_batches):
            batch = self._next(epoch * self._num_batches + index)
            if index == self._num_batches - 1:
                self.epoch, self.first_batch = epoch + 1, 0
            yield batch

    def resume_at(self, position: int) -> None:
        """Go on in the middle: the next iteration gives the rest of that epoch, then whole ones.

        Args:
            position: Batches since the beginning of epoch 0.
        """
        self.epoch, self.first_batch = divmod(position, self._num_batches)

    def batch_at(self, position: int) -> Batch:
        """Compute the batch at a position: a pure function of it and the loader's arguments.

        Args:
            position: Batches since the beginning of epoch 0.

        Returns:
            The batch, see the class.

        Raises:
            SampleError: A file cannot be read and may not be skipped; the message names it.
        """
        epoch, index = divmod(position, self._num_batches)
        rows = self.rows_at(position)
        inputs, targets, weights = self._samples.read(rows, epoch)
        if targets is None:
            return (inputs,)
        if self._mix is not None and targets.ndim == 1:
            targets = np.eye(self._num_classes, dtype=np.float32)[targets]
            # Weights are those of `unreadable` alone here: nothing may be blended with a gap.
            if weights is None or weights.all():
                rng = random_generator(self._seed, epoch, index, stream=1)
                inputs["images"], targets = augmentation.mix_batch(
                    inputs["images"], targets, self._mix, rng
                )
        return (inputs, targets) if weights is None else (inputs, targets, weights)

    def rows_at(self, position: int) -> NDArray[np.uint32]:
        """Say which rows of the manifest the batch at a position holds, (B,) uint32."""
        epoch, index = divmod(position, self._num_batches)
        return self._order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]

    @property
    def unreadable(self) -> dict[str, str]:
        """Images that were skipped so far, with the reason: theirs or that of their mask."""
        return self._unreadable.reasons

    def skipped(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which rows of the manifest were skipped so far, bool of their shape."""
        return self._unreadable.among(rows)

    def close(self) -> None:
        """Stop reading ahead and free the queue; iterating again starts it anew."""
        with self._lock:
            if self._iterator is not None:
                self._iterator.close()
            self._iterator, self._iterator_position = None, -1
        self._storage.close()

    def _count_batches(self, drop_remainder: bool, cycle: int) -> int:
        rows = self.manifest.num_samples
        if not drop_remainder:
            return -(-rows // self.batch_size)
        cycle = min(cycle, rows)
        self._batch_size = min(self._batch_size, rows // cycle)
        return rows // (self._batch_size * cycle) * cycle

    def _new_order(self, epoch: int) -> NDArray[np.uint32]:
        if not self._shuffle:
            return np.arange(self.manifest.num_samples, dtype=np.uint32)
        return shuffled(self.manifest, random_generator(self._seed, epoch, 0, stream=2))

    def _next(self, position: int) -> Batch:
        """Take the batch at a position from the queue, moving the queue there if need be."""
        started = time.perf_counter()
        with self._lock:
            if self._iterator is None or self._iterator_position != position:
                self._iterator = self._read_ahead(position)
            try:
                batch: Batch = next(self._iterator)
            except BaseException as error:
                self._iterator = None
                self.failure = error if isinstance(error, Exception) else None
                raise
            self._iterator_position = position + 1
        self.wait_seconds += time.perf_counter() - started
        return batch

    def _read_ahead(self, position: int) -> Any:
        import grain

        if self._iterator is not None:
            self._iterator.close()
        dataset = grain.MapDataset.source(_Positions(self, position))
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._buffer)
        return iter(dataset.to_iter_dataset(options))

    @property
    def batch_size(self) -> int:
        """Samples in a full batch: as asked for, or fewer where the rows make no whole cycle."""
        return self._batch_size

    # What Keras asks of a data adapter: https://keras.io/api/ has no page for it, so the calls
    # are those of `keras.src.trainers.data_adapters` in the pinned range of versions. An
    # adapter is taken as it is: without it Keras permutes batches and pulls stray ones.

    @property
    def num_batches(self) -> int:
        """Number of batches that the next iteration gives."""
        return self._num_batches - self.first_batch

    def get_numpy_iterator(self) -> Iterator[Batch]:
        """Give one epoch of NumPy batches."""
        return iter(self)

    def get_jax_iterator(self) -> Iterator[Batch]:
        """Give one epoch of NumPy batches, which JAX takes."""
        return iter(self)

    def get_tf_dataset(self) -> Any:
        """Give a `tf.data.Dataset` of one epoch, without a queue of its own."""
        import tensorflow as tf

        signature = keras.tree.map_structure(
            lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), self._example()
        )
        return tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)

    def get_torch_dataloader(self) -> Any:
        """Give a `torch.utils.data.DataLoader` of one epoch."""
        return data_adapter_utils.get_torch_dataloader(self)

    @property
    def has_partial_batch(self) -> bool:
        """Whether the last batch of an epoch is short."""
        return self.partial_batch_size is not None

    @property
    def partial_batch_size(self) -> int | None:
        """Samples in the last batch if it is short."""
        rest = self.manifest.num_samples % self.batch_size
        full = self._num_batches * self.batch_size <= self.manifest.num_samples
        return None if full or rest == 0 else rest

    def _example(self) -> Batch:
        """An empty batch, for its structure, shapes and types."""
        inputs, targets, weights = self._samples.empty(0)
        if targets is None:
            return (inputs,)
        if self._mix is not None and targets.ndim == 1:
            targets = np.empty((0, self._num_classes), np.float32)
        return (inputs, targets) if weights is None else (inputs, targets, weights)


class _Positions:
    """Grain's view of a loader: a source whose item is a whole batch, without an end."""

    def __init__(self, loader: BatchLoader, start: int) -> None:
        self._loader, self._start = loader, start

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Batch:
        return self._loader.batch_at(self._start + index)
