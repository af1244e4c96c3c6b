"""The files of one packed sample: as they are, or smaller."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydantic import ByteSize, TypeAdapter, ValidationError

from foveate.config.settings import DataConfig, DecodeConfig
from foveate.data.decode import decode_image, decode_pair
from foveate.data.header import Source, named, read, suffix
from foveate.data.listing import METADATA_PREFIX
from foveate.data.manifest import Manifest
from foveate.data.packed import PLACES
from foveate.data.places import Encoded, Place
from foveate.data.storage import Storage
from foveate.errors import ConfigError, SampleError


@dataclass(frozen=True)
class PackOptions:
    """What becomes of the images, and the size of the shards.

    Attributes:
        side: Short side in pixels that larger images are reduced to, as upright RGB JPEG, and
            their masks with them; None stores all files as they are. Images that are not larger
            are always stored as they are.
        quality: Of these JPEG files, 1 to 100.
        shard_bytes: A shard ends with the sample that reaches this size.
    """

    side: int | None = None
    quality: int = 90
    shard_bytes: int = 256 * 1024**2

    def __post_init__(self) -> None:
        for name, least, most in (("side", 1, 2**16), ("quality", 1, 100)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{name} must be {least} to {most}, but got {value}.")
        if self.shard_bytes < 1:
            raise ConfigError(f"shard_bytes must be positive, but got {self.shard_bytes}.")

    def plan(self, manifest: Manifest, config: DataConfig) -> str:
        """Describe a pack: the same description, the same bytes (JSON)."""
        said: dict[str, Any] = {"version": 1, "data": manifest.digest()}
        said |= {"side": self.side, "shard_bytes": self.shard_bytes}
        if self.side is not None:
            said |= {"quality": self.quality, "decode": config.decode.model_dump(mode="json")}
        return json.dumps(said, indent=2) + "\n"


def num_bytes(text: str) -> int:
    """Read a size such as ``256MiB``.

    Args:
        text: A number of bytes, with a unit or without.

    Raises:
        ConfigError: It is no size.
    """
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise ConfigError(f'a size must be like "256MiB", but got {text!r}.') from None


@dataclass(frozen=True)
class SampleFiles:
    """What is stored of a row.

    Attributes:
        row: Its number.
        files: Suffix and content: the image, its mask if there is one, and what the table says.
    """

    row: int
    files: tuple[tuple[str, bytes], ...]


def sample_files(
    manifest: Manifest,
    row: int,
    storage: Storage,
    config: DecodeConfig,
    options: PackOptions,
    skip: bool = False,
) -> SampleFiles:
    """Read a row's files, and reduce them where they are too large.

    Args:
        manifest: The rows.
        row: Number of the row.
        storage: Gets what is no plain file.
        config: From file to pixels, for what is reduced.
        options: To which size.
        skip: Whether to store what cannot be decoded as it is, for the loader to skip.

    Returns:
        The files.

    Raises:
        SampleError: A file cannot be read.
    """
    rows, mask = np.array([row]), None
    image = _read(storage, manifest.image_places(rows)[0], config)
    if manifest.has_masks:
        mask = _read(storage, manifest.mask_places(rows)[0], config)
    image_data, mask_data = image.data, None if mask is None else mask.data
    try:
        if options.side is not None and _short_side(image) > options.side:
            image_data, mask_data = _reduced(image, mask, config, options.side, options.quality)
    except SampleError:
        if not skip:
            raise
    files = [(suffix(image_data), image_data)]
    if mask_data is not None:
        files.append((f"mask.{suffix(mask_data)}", mask_data))
    files.append(("json", _description(manifest, row)))
    return SampleFiles(row, tuple(files))


def _read(storage: Storage, place: Place, config: DecodeConfig) -> Source:
    file = storage.fetch(place)
    with named(file):
        return read(file, config)


def _short_side(image: Source) -> int:
    with named(image.path):
        return min(image.size)


def _reduced(
    image: Source, mask: Source | None, config: DecodeConfig, side: int, quality: int
) -> tuple[bytes, bytes | None]:
    """Decode fully, average over areas, encode again; masks take the nearest value."""
    file, ids = Encoded(str(image.path), image.data), None
    if mask is None:
        pixels = decode_image(file, config)
    else:
        pixels, ids = decode_pair(file, Encoded(str(mask.path), mask.data), config)
    scale = side / min(pixels.shape[:2])
    width, height = (max(side, round(length * scale)) for length in pixels.shape[1::-1])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    data: bytes = simplejpeg.encode_jpeg(small, quality=quality, colorsubsampling="420")
    return data, None if ids is None else _png(ids, (width, height))


def _png(ids: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    small = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return bytes(cv2.imencode(".png", small)[1])


def _description(manifest: Manifest, row: int) -> bytes:
    """What the table says of a row, without what is missing."""
    said: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for name, value in manifest.table.row(row, named=True).items():
        if value is None or name in PLACES:
            continue
        if name.startswith(METADATA_PREFIX):
            metadata[name.removeprefix(METADATA_PREFIX)] = value
        else:
            said[name] = value
    if metadata:
        said["metadata"] = metadata
    return json.dumps(said, ensure_ascii=False).encode()
