"""Getting the bytes of an image: from a file, a shard, or far away."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, lru_cache
from io import BytesIO, FileIO
from types import TracebackType

from foveate.config.settings import CACHE_BYTES
from foveate.data.cache import Parts
from foveate.data.places import Encoded, Member, Place, is_remote
from foveate.data.remote import RemoteReader, shared_cache
from foveate.errors import SampleError

# What is left of a damaged shard must go: a pack that goes on takes the shards that it finds.
_REMEDY = (
    "copy the shard again, or delete it and the index.parquet and run the same foveate pack again"
)
_MOST_DESCRIPTORS = 128  # macOS allows a process 256 unless told otherwise


class Storage:
    """Gets the bytes of files that are no plain files of this machine; threads may share one.

    Descriptors of shards stay open, as many as a process may well have, until `close`; reading
    goes on afterwards with new ones.

    Args:
        cache_bytes: Most disk space for what is read from far away or kept; all storages of a
            process that agree on it share it.
        sweeps: Whether the order of reading is that of `foveate.data.order`, so that the
            neighbours of what is read are wanted soon: then whole blocks are fetched.
    """

    def __init__(self, cache_bytes: int = CACHE_BYTES, sweeps: bool = False) -> None:
        self._cache_bytes, self._sweeps = cache_bytes, sweeps
        self._descriptor = lru_cache(maxsize=_MOST_DESCRIPTORS)(open_descriptor)

    def __reduce__(self) -> tuple[type[Storage], tuple[int, bool]]:
        return Storage, (self._cache_bytes, self._sweeps)  # another process opens its own

    def __enter__(self) -> Storage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fetch(self, place: Place) -> str | Encoded:
        """Get what lies at a place.

        Args:
            place: Path of a file, which is given back as it is; a URI; or a part of a shard.

        Returns:
            What `foveate.data.decode` takes.

        Raises:
            SampleError: The bytes cannot be had; the message names the place.
        """
        if isinstance(place, str):
            return Encoded(place, self._remote.read(place)) if is_remote(place) else place
        if is_remote(place.shard):
            stop = place.offset + place.length
            data = self._remote.read_range(place.shard, place.offset, stop)
        else:
            data = self._read_part(place)
        if len(data) != place.length:
            raise SampleError(
                f"{place} must be {place.length} bytes from byte {place.offset} on, but the "
                f"shard ends after {len(data)} of them; {_REMEDY}"
            )
        return Encoded(str(place), data)

    def keep(self, key: str, make: Callable[[], Parts]) -> FileIO | BytesIO:
        """Open what was made before under a key, or is made now, see `ByteCache.open`.

        It shares the disk space with what is read from far away.
        """
        return shared_cache(self._cache_bytes).open(key, make)

    def close(self) -> None:
        """Close all shards, each once no thread reads it any more."""
        self._descriptor.cache_clear()

    @cached_property
    def _remote(self) -> RemoteReader:
        return RemoteReader(shared_cache(self._cache_bytes), self._sweeps)

    def _read_part(self, place: Member) -> bytes:
        try:
            descriptor = self._descriptor(place.shard)
            return os.pread(descriptor.number, place.length, place.offset)
        except OSError as error:
            raise SampleError(
                f"{place} must be in a readable shard, but got: {error.strerror}; {_REMEDY}"
            ) from error


class Descriptor:
    """An open file that closes itself when nobody holds it: no read ever meets another's file.

    Attributes:
        number: For `os.pread`.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def open_descriptor(path: str) -> Descriptor:
    """Open a file to read parts of it, from any number of threads."""
    return Descriptor(os.open(path, os.O_RDONLY))
