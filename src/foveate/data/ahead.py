"""Reading ahead: threads, or processes, compute batches into a bounded queue."""

from __future__ import annotations

import threading
import time
from typing import Any

from foveate.data.batches import Batch, Batches

_ENDLESS = 2**62


class ReadAhead:
    """Hands out the batches of ascending positions, computed before they are asked for.

    Args:
        batches: What to compute.
        threads: Threads that do it, of this process or of all others together.
        processes: Other processes that do it; 0 for none. Batches come through shared memory.
        most: Most batches that wait.
        stretch: Batches that are read in one go: where as many end, the next are begun only when
            they are asked for. None goes on for ever.

    Attributes:
        wait_seconds: Time spent waiting for batches so far.
        failure: What stopped the reading, if anything: TensorFlow wraps it beyond recognition.
    """

    def __init__(
        self,
        batches: Batches,
        threads: int,
        processes: int,
        most: int,
        stretch: int | None = None,
    ) -> None:
        self._batches, self._most = batches, most
        self._stretch = stretch or _ENDLESS
        self._threads, self._processes = threads, processes
        self._lock = threading.Lock()
        self._iterator: Any = None
        self._position = -1
        self.wait_seconds = 0.0
        self.failure: Exception | None = None

    def take(self, position: int) -> Batch:
        """Take the batch at a position from the queue, moving the queue there if need be."""
        started = time.perf_counter()
        with self._lock:
            is_next = self._iterator is not None and self._position == position
            if not is_next or position % self._stretch == 0:
                self._stop()
                self._iterator = self._start(position)
            try:
                batch: Batch = next(self._iterator)
            except BaseException as error:
                self._stop()
                self.failure = error if isinstance(error, Exception) else None
                raise
            self._position = position + 1
        self.wait_seconds += time.perf_counter() - started
        return batch

    def shrink(self) -> bool:
        """Let go of what waits; from now on this process alone reads, one batch ahead.

        Other processes are given up since each takes more memory than a queue.

        Returns:
            Whether it read more than that before.
        """
        with self._lock:
            if self._most == 1 and not self._processes:
                return False
            self._stop()
            self._most, self._processes = 1, 0
        return True

    def close(self) -> None:
        """Stop, and free the queue; taking a batch starts it anew."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
        self._iterator, self._position = None, -1

    def _start(self, position: int) -> Any:
        import grain

        count = self._stretch - position % self._stretch
        source = grain.MapDataset.source(_Positions(self._batches, position, count))
        if not self._processes:
            threads = min(self._threads, self._most)  # others would have nothing to do
            options = grain.ReadOptions(threads, prefetch_buffer_size=self._most)
            return iter(source.to_iter_dataset(options))
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # Grain asks absl, which minds that nobody parsed its flags
        threads = max(self._threads // self._processes, 1)
        options = grain.ReadOptions(threads, prefetch_buffer_size=threads)
        waiting = max(self._most // self._processes - threads, 1)
        workers = grain.MultiprocessingOptions(self._processes, per_worker_buffer_size=waiting)
        return iter(source.to_iter_dataset(options).mp_prefetch(workers))


class _Positions:
    """Grain's view: a source whose item is a whole batch."""

    def __init__(self, batches: Batches, start: int, count: int) -> None:
        self._batches, self._start, self._count = batches, start, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        return self._batches.at(self._start + index)
