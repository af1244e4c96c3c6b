"""BatchLoader: (seed, epoch, position) -> batch, for Keras and for loops of one's own.

A position counts batches over all epochs; it alone says which rows a batch holds and how they
are augmented. Threads compute the positions ahead into a bounded queue, whose one iterator is
ours; Keras gets a door that hands out what is next and never permutes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from numpy.typing import NDArray

from foveate import machine
from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import CACHE_BYTES, DecodeConfig, LoaderConfig
from foveate.config.tiles import TilesConfig
from foveate.data.ahead import ReadAhead
from foveate.data.batches import Batch, Batches, Drawing
from foveate.data.features import FeatureFiles
from foveate.data.manifest import Manifest
from foveate.data.metadata import MetadataSchema
from foveate.data.storage import Storage
from foveate.data.tiles import images_at_once
from foveate.data.unreadable import Unreadable
from foveate.errors import ConfigError

__all__ = ["Batch", "BatchLoader"]

_WHOLE = TilesConfig()


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
        sampling: Which rows an epoch draws: ``uniform`` takes each once; ``balanced`` each class
            equally often, ``weighted`` each row in proportion to its weight, which then does not
            enter the batch. The last two need `shuffle`.
        repeat: How often an epoch goes over the rows.
        remainder: What becomes of the last short batch of an epoch: ``keep`` it short, ``pad`` it
            with samples of weight 0 (targets then always come with weights; the metrics need
            ``weighted_metrics``), or ``drop`` it.
        cycle: Number of batches of which an epoch holds a whole multiple (gradient
            accumulation); needs ``drop``.
        seed: With epoch and position the only source of randomness.
        threads: Threads that read, decode and augment; one per processor when None.
        processes: Processes that do it instead, with the threads shared among them; 0 for none.
            Worth trying where many cores wait for Python; a script then needs the usual
            ``if __name__ == "__main__":``.
        queue_bytes: Most memory of the batches that wait or are being made.
        cache_bytes: Most disk space for what is read from far away, and for decoded images that
            tiles are cut from.
        unreadable: ``fail`` stops at a sample that cannot be read, ``skip`` goes on without it.
        max_unreadable: Share of the rows, 0 to 1, above which ``skip`` stops as well.
        tiles: Cuts each sample out of its image at full resolution: where its row says, see
            `foveate.data.tiles`, or else anywhere, anew in each epoch. Images are taken whole if
            tiles have no size.
        features: What a frozen backbone made of the rows: the batches then hold these arrays in
            place of ``images``. No file is read or augmented.
        epochs: Number of epochs that are read in one go: after them nothing is read before it is
            asked for. None reads ahead without end.

    Attributes:
        epoch: Number of the epoch that the next iteration gives; may be set.
        first_batch: Batch of that epoch that it begins with, see `resume_at`.

    Raises:
        ManifestError: There are no rows.
        ConfigError: The options exclude each other.
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
        sampling: str = "uniform",
        repeat: int = 1,
        remainder: str = "keep",
        cycle: int = 1,
        seed: int = 0,
        threads: int | None = None,
        processes: int = 0,
        queue_bytes: int = LoaderConfig().queue,
        cache_bytes: int = CACHE_BYTES,
        unreadable: str = "fail",
        max_unreadable: float = 0.01,
        tiles: TilesConfig = _WHOLE,
        features: FeatureFiles | None = None,
        epochs: int | None = None,
    ) -> None:
        super().__init__()
        if processes and unreadable == "skip":
            raise ConfigError(
                'Skipped files are counted in one process, but got unreadable="skip" with '
                f"{processes=}. Set loader.processes to 0, or data.unreadable to fail."
            )
        self.manifest = manifest
        self.epoch = self.first_batch = 0
        self._unreadable = Unreadable(
            unreadable, max_unreadable, manifest.num_samples, manifest.source
        )
        cache_bytes //= max(processes, 1)  # each process has a cache of its own
        self._storage = Storage(cache_bytes, sweeps=shuffle)
        at_once = images_at_once(manifest, cache_bytes)
        self._batches = Batches(
            manifest,
            image_size,
            Drawing(batch_size, shuffle, sampling, repeat, remainder, cycle, seed, at_once),
            augment,
            encode,
            num_classes,
            metadata,
            decode,
            self._storage,
            self._unreadable,
            tiles,
            features,
        )
        threads = threads or machine.cpu_count()
        sample_bytes = features.item_bytes if features else image_size[0] * image_size[1] * 4
        batch_bytes = self.batch_size * sample_bytes
        most = min(max(queue_bytes // batch_bytes, 1), max(4 * threads, 16))
        stretch = epochs and epochs * self._batches.num_batches
        self._ahead = ReadAhead(self._batches, threads, processes, most, stretch)

    def __len__(self) -> int:
        return self._batches.num_batches

    def __getitem__(self, index: int) -> Batch:
        """Compute one batch of the current epoch, on the calling thread."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"An epoch has {len(self)} batches, but got index {index}.")
        return self.batch_at(self.epoch * len(self) + index % len(self))

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch, self.first_batch
        for index in range(first, len(self)):
            batch = self._ahead.take(epoch * len(self) + index)
            if index == len(self) - 1:
                self.epoch, self.first_batch = epoch + 1, 0
            yield batch

    def resume_at(self, position: int) -> None:
        """Go on in the middle: the next iteration gives the rest of that epoch, then whole ones.

        Keras asks for the number of batches once for all epochs of a `fit`: have it fit the rest
        of that epoch alone, then the others.

        Args:
            position: Batches since the beginning of epoch 0.
        """
        self.epoch, self.first_batch = divmod(position, len(self))

    def batch_at(self, position: int) -> Batch:
        """Compute the batch at a position: a pure function of it and the loader's arguments.

        Args:
            position: Batches since the beginning of epoch 0.

        Returns:
            The batch, see the class.

        Raises:
            SampleError: A file cannot be read and may not be skipped; the message names it.
        """
        return self._batches.at(position)

    def rows_at(self, position: int) -> NDArray[np.uint32]:
        """Say which rows of the manifest the batch at a position holds, uint32 (B,) or fewer."""
        return self._batches.rows_at(position)

    @property
    def batch_size(self) -> int:
        """Samples in a full batch: as asked for, or fewer where the rows make no whole cycle."""
        return self._batches.batch_size

    @property
    def wait_seconds(self) -> float:
        """Time spent waiting for batches so far."""
        return self._ahead.wait_seconds

    @property
    def failure(self) -> Exception | None:
        """What stopped the reading, if anything: TensorFlow wraps it beyond recognition."""
        return self._ahead.failure

    @property
    def unreadable(self) -> dict[str, str]:
        """Images that were skipped so far, with the reason: theirs or that of their mask."""
        return self._unreadable.reasons

    def skipped(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which rows of the manifest were skipped so far, bool of their shape."""
        return self._unreadable.among(rows)

    def shrink_queue(self) -> bool:
        """Free what waits, and let no more than one batch wait from now on.

        It may be called in the middle of an epoch and from any thread. Batches and their order
        stay the same: what was dropped is computed anew when its turn comes. Other processes end.

        Returns:
            Whether there was anything to shrink.
        """
        return self._ahead.shrink()

    def close(self) -> None:
        """Stop reading ahead and free the queue; iterating again starts it anew."""
        self._ahead.close()
        self._storage.close()

    # What Keras asks of a data adapter: https://keras.io/api/ has no page for it, so the calls
    # are those of `keras.src.trainers.data_adapters` in the pinned range of versions. An
    # adapter is taken as it is: without it Keras permutes batches and pulls stray ones.

    @property
    def num_batches(self) -> int:
        """Number of batches that the next iteration gives."""
        return len(self) - self.first_batch

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
            lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype),
            self._batches.empty(),
        )
        dataset = tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)
        options = tf.data.Options()  # else TensorFlow puts a queue behind whatever has none
        options.experimental_optimization.inject_prefetch = False
        options.autotune.enabled = False
        return dataset.with_options(options)

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
        return self._batches.last_size if self._batches.last_size < self.batch_size else None
