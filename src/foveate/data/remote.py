"""Bytes from object stores and web servers, by fsspec: ranges, retries, a bounded cache."""

from __future__ import annotations

import threading
import time
from functools import lru_cache

import polars as pl

from foveate.data.cache import ByteCache
from foveate.errors import ManifestError, MissingDependencyError, SampleError, nearest

_BLOCK = 1024**2  # some twenty usual photographs: a request takes longer to travel than to fill
_ATTEMPTS = 8
_FIRST_PAUSE_SECONDS = 0.1  # doubled each time: 13 seconds in all, which a restart may take
_TOO_BUSY = (408, 425, 429)  # the only refusals (4xx) that another attempt may turn
_PACKAGES = {
    "s3": '"foveate[s3]"',
    "s3a": '"foveate[s3]"',
    "http": '"foveate[http]"',
    "https": '"foveate[http]"',
    "gs": "gcsfs",
    "gcs": "gcsfs",
}

_sharing = threading.Lock()


@lru_cache(maxsize=64)
def require_protocol(protocol: str) -> None:
    """Check that what a URI begins with is known, and installed.

    Args:
        protocol: Such as ``s3``.

    Raises:
        ManifestError: There is no such protocol.
        MissingDependencyError: Its package is not installed; the message says how to.
    """
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        known = fsspec.available_protocols()
        raise ManifestError(
            f"a URI must begin with a protocol that fsspec knows, such as s3:// or https://, "
            f"but got {protocol}://.{nearest(protocol, known)}"
        ) from None
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        how = f"pip install {package}" if package else str(error)
        raise MissingDependencyError(
            f"{protocol}:// needs a package that is not installed: {how}"
        ) from error


def fetch(uri: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Read a file or a part of it, again and again where that may help.

    Args:
        uri: The file.
        start: First byte; the whole file is read when not given.
        stop: Byte after the last one; the file may end before.

    Returns:
        The bytes.

    Raises:
        SampleError: The file does not exist, may not be read, or cannot be reached.
        ManifestError: See `require_protocol`.
        MissingDependencyError: See `require_protocol`.
    """
    require_protocol(uri.partition("://")[0])
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            data: bytes = filesystem.cat_file(path, start=start, end=stop)
            break
        except Exception as error:  # the library behind each protocol has errors of its own
            if _is_permanent(error) or attempt == _ATTEMPTS - 1:
                raise SampleError(_complaint(uri, error, attempt + 1)) from error
    if start is not None and stop is not None and len(data) > stop - start:
        raise SampleError(
            f"{uri} must be on a server that gives parts of files (HTTP range requests), but "
            f"got {len(data)} bytes for {stop - start}; serve it otherwise, or copy it here"
        )
    return data


def _is_permanent(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _TOO_BUSY
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)


def _complaint(uri: str, error: Exception, attempts: int) -> str:
    reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
    tried = f" {attempts} times" if attempts > 1 else ""
    return (
        f"{uri} must be readable, but got{tried}: {reason or type(error).__name__}; look at the "
        "address, your right to read it, and the connection"
    )


class RemoteReader:
    """Reads remote files through a cache; threads may share one.

    Args:
        cache: What was read before.
        whole_blocks: Whether to fetch blocks of a megabyte instead of the mere range.
    """

    def __init__(self, cache: ByteCache, whole_blocks: bool) -> None:
        self._cache, self._whole_blocks = cache, whole_blocks

    def read(self, uri: str) -> bytes:
        """Read a whole file.

        Args:
            uri: The file.

        Raises:
            SampleError: See `fetch`.
        """
        return self._cache.get(uri, lambda: fetch(uri))

    def read_range(self, uri: str, start: int, stop: int) -> bytes:
        """Read a part of a file.

        Args:
            uri: The file.
            start: First byte.
            stop: Byte after the last one.

        Returns:
            The bytes, fewer than asked for where the file ends before `stop`.

        Raises:
            SampleError: See `fetch`.
        """
        if not self._whole_blocks:
            return self._part(uri, start, stop)
        blocks = range(start // _BLOCK * _BLOCK, stop, _BLOCK)
        return b"".join(
            self._part(uri, block, block + _BLOCK, max(start - block, 0), stop - block)
            for block in blocks
        )

    def _part(self, uri: str, start: int, stop: int, *within: int) -> bytes:
        return self._cache.get(f"{uri} {start} {stop}", lambda: fetch(uri, start, stop), *within)


def shared_cache(max_bytes: int) -> ByteCache:
    """Give the one cache of this process that has this bound."""
    with _sharing:  # else threads that come at once get one each: lru_cache locks no call
        return _cache(max_bytes)


@lru_cache(maxsize=4)
def _cache(max_bytes: int) -> ByteCache:
    return ByteCache(max_bytes)


def protocols(places: pl.Series) -> set[str]:
    """Collect what the remote ones of many places begin with.

    Args:
        places: String or Enum, (rows,).
    """
    names = places.cast(pl.String).str.extract(r"^([A-Za-z0-9+.-]+)://").drop_nulls().unique()
    return set(names.to_list())
