"""One shard: an uncompressed tar file of samples, written at once and read whole."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from foveate.data.repack import SampleFiles
from foveate.disk import replacing

DAMAGED = (OSError, tarfile.TarError, ValueError)
"""What `read_shard` raises where a shard is damaged."""


@dataclass(frozen=True)
class Packed:
    """Where one file lies, and its checksum (CRC-32)."""

    row: int
    kind: str
    offset: int
    length: int
    checksum: int


def write_shard(path: Path, samples: Iterator[SampleFiles], least_bytes: int) -> list[Packed]:
    """Write samples until there are enough bytes, or none left.

    Args:
        path: Of the shard, which appears whole or not at all.
        samples: What to write; those that did not fit are left.
        least_bytes: The shard ends with the sample that reaches this size.

    Returns:
        Where the images and masks lie.
    """
    found = []
    with replacing(path) as beside, beside.open("wb") as file, _new_tar(file) as tar:
        while tar.offset < least_bytes and (sample := next(samples, None)) is not None:
            for suffix, content in sample.files:
                info = tarfile.TarInfo(f"{sample.row:09d}.{suffix}")
                info.size = len(content)
                offset = tar.offset + tarfile.BLOCKSIZE
                tar.addfile(info, BytesIO(content))
                if (kind := _kind(suffix)) is not None:
                    checksum = zlib.crc32(content)
                    found.append(Packed(sample.row, kind, offset, len(content), checksum))
    return found


def read_shard(path: Path) -> Iterator[Packed]:
    """Read a shard from its begin to its end.

    Args:
        path: Of the shard.

    Yields:
        Where an image or mask lies.

    Raises:
        OSError: The shard cannot be read.
        tarfile.TarError: It is damaged.
        ValueError: It holds what no pack has written.
    """
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            row, _, suffix = info.name.partition(".")
            content, kind = tar.extractfile(info), _kind(suffix)
            if content is not None and kind is not None:
                checksum = zlib.crc32(content.read())
                yield Packed(int(row), kind, info.offset_data, info.size, checksum)
        _require_end(file, tar.offset)


def _require_end(file: BinaryIO, offset: int) -> None:
    """Refuse all but what closes a tar: reading ends without a word at a damaged header, too."""
    size = offset + 2 * tarfile.BLOCKSIZE
    size = -(-size // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    file.seek(offset)
    if file.read(size - offset + 1) != bytes(size - offset):
        raise tarfile.ReadError(f"the shard is damaged or cut short at byte {offset}")


def _new_tar(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)


def _kind(suffix: str) -> str | None:
    return None if suffix == "json" else "mask" if suffix.startswith("mask.") else "image"
