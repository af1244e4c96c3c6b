"""Where an image lies: in a file, at a URI, in a shard; or its bytes, once they are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a shard.

    Attributes:
        shard: Absolute path or URI of the shard.
        offset: Where in the shard the file's bytes begin.
        length: Their number.
        name: What was packed.
    """

    shard: str
    offset: int
    length: int
    name: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image file's bytes.

    Attributes:
        name: What messages call it.
        data: The whole file.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Place = str | Member
"""Path of a file, a URI, or a part of a shard."""

File = Path | str | Encoded
"""What can be opened: a file of this machine, or bytes."""


def is_remote(place: str) -> bool:
    """Whether a path is a URI, such as ``s3://bucket/photo.jpg``."""
    return "://" in place
