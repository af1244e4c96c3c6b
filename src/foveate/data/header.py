"""From a file to its header: what an image or mask is, before its pixels are decoded.

Pillow reads the header of every format; size, mode and EXIF cost some 0.02 ms.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from foveate.config.settings import DecodeConfig
from foveate.errors import FoveateError, SampleError

# Once for the process, as `warnings.catch_warnings` is not safe in threads: what Pillow thinks of
# odd TIFF tags would fill the terminal. Appended, so that a user's own filters come first.
warnings.filterwarnings("ignore", module=r"PIL\.\w+Plugin", append=True)

# The plugins are called by content; `Image.open` would add Pillow's own, lower pixel limit.
_FORMATS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
)


@dataclass(frozen=True)
class Source:
    """A file's bytes with its header, before its pixels are decoded.

    Attributes:
        path: Where the bytes came from; named in errors.
        data: The whole file.
        image: The header as Pillow read it from `data`; it decodes pixels when asked to.
        orientation: EXIF orientation still to apply, 1 to 8; 1 is upright.
    """

    path: Path | str
    data: bytes
    image: ImageFile
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels after the EXIF orientation."""
        return turned((self.image.height, self.image.width), self.orientation)

    @property
    def bits(self) -> int:
        """Bits of one channel of one pixel, which Pillow's modes hide."""
        if isinstance(self.image, PngImageFile):
            return self.data[24]  # the IHDR chunk always comes first
        if isinstance(self.image, TiffImageFile):
            return int(self.image.tag_v2.get(Base.BitsPerSample, (1,))[0])
        return 8


def probe(path: Path | str, config: DecodeConfig) -> tuple[int, int]:
    """Read the size of an image or mask from its header alone.

    Args:
        path: File to look at.
        config: Holds the pixel limit.

    Returns:
        (height, width) in pixels after the EXIF orientation.

    Raises:
        SampleError: The file is missing, of no supported format, damaged, or over the limit.
    """
    with named(path), Path(path).open("rb") as stream:
        image = _open(stream, path, config)
        return turned((image.height, image.width), _orientation(image))


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Turn whatever a decoder raises into a SampleError that names the file."""
    try:
        yield
    except (FoveateError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise SampleError(
            f"{path} must be a readable image, but got: {reason or type(error).__name__}; "
            "repair or replace the file, or drop its row"
        ) from error


def read(path: Path | str, config: DecodeConfig) -> Source:
    """Read a file whole, and its header.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP or GIF file.
        config: Holds the pixel limit.

    Returns:
        The bytes and what they announce.

    Raises:
        SampleError: The content is of no supported format, or over the limit; other failures
            come as they are, see `named`.
    """
    with FileIO(path) as file:  # half the time of `Path.read_bytes`
        data = file.readall()
    image = _open(BytesIO(data), path, config)
    return Source(path, data, image, _orientation(image))


def _open(stream: BinaryIO, path: Path | str, config: DecodeConfig) -> ImageFile:
    """Read the header alone; the format is told from the content, whatever the name ends in."""
    head = stream.read(16)
    stream.seek(0)
    plugin = next((plugin for pattern, plugin in _FORMATS if pattern.match(head)), None)
    if plugin is None:
        found = f"a file that begins with {head!r}" if head else "an empty file"
        raise SampleError(
            f"{path} must be a JPEG, PNG, WebP, TIFF, BMP or GIF image, but got {found}; "
            "convert it, or drop its row"
        )
    image = plugin(stream)
    if image.width * image.height > config.max_pixels:
        raise SampleError(
            f"{path} must have at most {config.max_pixels:,} pixels, but got "
            f"{image.height}x{image.width} (height x width); make it smaller, or raise "
            "data.decode.max_pixels"
        )
    return image


def _orientation(image: ImageFile) -> int:
    """EXIF orientation, 1 (upright) to 8; Pillow applies that of a TIFF by itself."""
    if isinstance(image, TiffImageFile):
        return 1
    try:
        # Not the override in PngImageFile, which decodes all pixels to look behind them.
        value = int(Image.getexif(image).get(Base.Orientation, 1))
    except Exception:  # broken EXIF; every viewer then shows the pixels as they are stored
        return 1
    return value if 1 <= value <= 8 else 1


def turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Swap (height, width) where an EXIF orientation turns the image by a quarter."""
    return (size[1], size[0]) if orientation >= 5 else size
