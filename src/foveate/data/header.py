"""From a file to its header: what an image or mask is, before its pixels are decoded.

Pillow reads the header of every format, save that of ordinary JPEG, which is quicker walked.
"""

from __future__ import annotations

import ctypes
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

from PIL import _imaging
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
from foveate.data.places import Encoded, File
from foveate.errors import FoveateError, SampleError

# Once for the process, as `warnings.catch_warnings` is not safe in threads: what Pillow thinks of
# odd TIFF tags, or of a size that our limit judges, would fill the terminal. Appended, so that a
# user's own filters come first.
warnings.filterwarnings("ignore", module=r"PIL\.(\w+Plugin|Image)", append=True)

logging.getLogger("PIL").addHandler(logging.NullHandler())  # or what it logs is printed
# Likewise the libtiff in Pillow; where its functions cannot be reached, it goes on printing.
with suppress(AttributeError, OSError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

# The plugins are called by content; `Image.open` would add Pillow's own, lower pixel limit.
_FORMATS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
)

# Baseline, extended and progressive; DCT, DQT, DRI, APP0, APP2 to APP15 and comments before them.
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_FRAME = struct.Struct(">BHHB")
_SKIPPED = frozenset((0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE))


@dataclass(frozen=True)
class Source:
    """A file's bytes and what they announce, before its pixels are decoded.

    Attributes:
        path: Where the bytes came from; named in errors.
        data: The whole file.
        config: Holds the pixel limit.
    """

    path: Path | str
    data: bytes
    config: DecodeConfig

    @cached_property
    def plain_jpeg(self) -> tuple[int, int] | None:
        """(height, width) in pixels of an ordinary upright JPEG; None for everything else."""
        size = _plain_jpeg(self.data)
        if size is not None:
            _require_pixels(size, self.path, self.config)
        return size

    @cached_property
    def image(self) -> ImageFile:
        """The header as Pillow reads it; it decodes pixels when asked to."""
        return _open(BytesIO(self.data), self.path, self.config)

    @cached_property
    def orientation(self) -> int:
        """EXIF orientation still to apply, 1 to 8; 1 is upright."""
        return 1 if self.plain_jpeg is not None else _orientation(self.image)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) in pixels as stored."""
        return self.plain_jpeg or (self.image.height, self.image.width)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels after the EXIF orientation."""
        return turned(self.stored_size, self.orientation)

    @property
    def bits(self) -> int:
        """Bits of one channel of one pixel, which Pillow's modes hide."""
        if isinstance(self.image, PngImageFile):
            return self.data[24]  # the IHDR chunk always comes first
        if isinstance(self.image, TiffImageFile):
            return int(self.image.tag_v2.get(Base.BitsPerSample, (1,))[0])
        return 8


def probe(path: File, config: DecodeConfig) -> tuple[int, int]:
    """Read the size of an image or mask from its header alone.

    Args:
        path: File to look at, or its bytes.
        config: Holds the pixel limit.

    Returns:
        (height, width) in pixels after the EXIF orientation.

    Raises:
        SampleError: The file is missing, of no supported format, damaged, or over the limit.
    """
    with named(path), _stream(path) as stream:
        image = _open(stream, str(path), config)
        return turned((image.height, image.width), _orientation(image))


def suffix(data: bytes) -> str:
    """Tell the usual suffix of an image's format from its bytes; ``bin`` if it is none."""
    kind = next((plugin.format for pattern, plugin in _FORMATS if pattern.match(data)), None)
    return {"JPEG": "jpg", "TIFF": "tif", None: "bin"}.get(kind, str(kind).lower())


def _stream(path: File) -> BinaryIO:
    return BytesIO(path.data) if isinstance(path, Encoded) else Path(path).open("rb")


@contextmanager
def named(path: File) -> Iterator[None]:
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


def read(path: File, config: DecodeConfig) -> Source:
    """Read a file whole, unless it has been.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP or GIF file, or its bytes.
        config: Holds the pixel limit.

    Returns:
        The bytes; what they announce is looked at when asked for.

    Raises:
        OSError: The file cannot be read; see `named`.
    """
    if isinstance(path, Encoded):
        return Source(path.name, path.data, config)
    with FileIO(path) as file:  # half the time of `Path.read_bytes`
        return Source(path, file.readall(), config)


def _plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Walk the segments of a JPEG to its frame header (ITU-T T.81, B.1 and B.2.2).

    Pillow takes ten times as long. It still reads whatever is not 8-bit grey or three colours
    in Huffman coding, and all files with EXIF or XMP, which may turn the image.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    place = 2
    while len(data) > place + 9 and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            precision, height, width, channels = _FRAME.unpack_from(data, place + 4)
            usual = precision == 8 and height and width and channels in (1, 3)
            return (height, width) if usual else None
        if marker not in _SKIPPED:
            return None
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return None


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
    _require_pixels((image.height, image.width), path, config)
    return image


def _require_pixels(size: tuple[int, int], path: Path | str, config: DecodeConfig) -> None:
    height, width = size
    if height * width > config.max_pixels:
        raise SampleError(
            f"{path} must have at most {config.max_pixels:,} pixels, but got "
            f"{height}x{width} (height x width); make it smaller, or raise "
            "data.decode.max_pixels"
        )


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
