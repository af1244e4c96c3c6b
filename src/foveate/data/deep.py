"""16-bit pixels to 8 bits, by the range that is declared for them."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from foveate.config.settings import DecodeConfig
from foveate.data.header import Source
from foveate.errors import SampleError


def levels(source: Source, config: DecodeConfig) -> Image.Image:
    """Map 16-bit values linearly to 0..255 by the declared range; alpha by its full range.

    Args:
        source: A file of 16-bit grey, RGB or RGBA.
        config: Declares the range.

    Returns:
        An 8-bit image of mode L, RGB or RGBA.

    Raises:
        SampleError: No range is declared, or the pixels are of another kind.
    """
    values = _deep(source)
    if config.range_16bit is None:
        colors = values if values.ndim == 2 else values[..., :3]
        raise SampleError(
            f"{source.path} must come with data.decode.range_16bit, as it holds 16-bit pixels, "
            f"but got none; set it to the values that mean black and white "
            f"(here pixels run from {colors.min()} to {colors.max()})"
        )
    pixels = _table(*config.range_16bit)[values]
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels[..., 3] = values[..., 3] >> 8
    return Image.fromarray(pixels)


def _deep(source: Source) -> NDArray[np.uint16]:
    """Decode 16-bit grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4) without losing bits."""
    image = source.image
    upright = not isinstance(image, TiffImageFile) or image.tag_v2.get(Base.Orientation, 1) == 1
    image.load()  # finds damage, and says what it is
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)
    values = None
    # Pillow keeps the upper 8 bits of 16-bit colour; OpenCV keeps all, but no TIFF orientation.
    if image.mode in ("LA", "RGB", "RGBA") and upright:
        if isinstance(image, PngImageFile):
            _require_sound(source)
        values = cv2.imdecode(np.frombuffer(source.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise SampleError(
            f"{source.path} must hold upright 16-bit grey or RGB pixels, but got Pillow mode "
            f"{image.mode!r}; convert it to 8 bits or to 16-bit PNG"
        )
    return cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _require_sound(source: Source) -> None:
    """Find damage behind and around the pixels of a PNG: Pillow overlooks it, OpenCV prints it."""
    data = source.data
    PngImageFile(BytesIO(data)).verify()  # checksums and names of all chunks
    height, width = source.stored_size
    least = 2 * len(source.image.getbands()) * height * width
    most = least + 2 * (height + 7) * 8  # a byte a row, of which interlaced images have more
    stream, size = zlib.decompressobj(), 0
    place, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"IDAT":
            size += len(stream.decompress(data[place + 8 : place + 8 + length], most))
        place += 12 + length
    if not least <= size <= most or not stream.eof or place > len(data):
        raise ValueError("pixels do not end where they should")
    if data[26:28] != b"\0\0":  # Pillow does not mind; there is one method of each
        raise ValueError("compression and filter must be of the one kind that PNG has")


@lru_cache(maxsize=8)
def _table(black: int, white: int) -> NDArray[np.uint8]:
    """Grey level, uint8 (65536,), of each 16-bit value; values outside the range are clipped."""
    share = (np.arange(65536) - black) / (white - black)
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)
