"""From a file to pixels: with `header`, the only code that opens an image or a mask.

The header (format, size, mode, EXIF) decides. The pixels of plain 8-bit JPEG then come
from simplejpeg, of plain WebP and 16-bit colour from OpenCV, all others from Pillow. OpenCV is
kept from other PNG and TIFF: it writes to stderr where they are damaged.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from foveate.config.settings import DecodeConfig
from foveate.data.deep import levels
from foveate.data.header import Source, named, probe, read, turned
from foveate.data.places import File
from foveate.errors import SampleError

__all__ = ["decode_image", "decode_mask", "decode_pair", "probe"]

# Parallelism comes from the loader's threads; OpenCV's own would compete with them.
cv2.setNumThreads(0)
# Where it fails Pillow says why; what it thinks of odd tags would fill the terminal.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_FATAL)
_BAND = 2**22  # pixels copied from Pillow at once
# What libjpeg complains about although all pixels are there; seen in well-known public datasets.
_HARMLESS = ("before marker 0xd9", "unknown JFIF revision")


def decode_image(
    path: File, config: DecodeConfig, min_size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode the first frame of an image to RGB, EXIF orientation applied.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP or GIF file, or its bytes.
        config: Background of transparent pixels, range of 16-bit pixels, pixel limit.
        min_size: (height, width) in pixels that suffices: a JPEG is decoded at 1/2, 1/4 or 1/8
            of its size where both sides stay at least this long. Full size when not given.

    Returns:
        uint8 (H, W, 3), RGB, 0 to 255, C-contiguous.

    Raises:
        SampleError: The file is missing, damaged, of no supported kind, or over the limit.
    """
    with named(path):
        return _pixels(read(path, config), config, min_size)


def decode_mask(path: File, config: DecodeConfig) -> NDArray[np.uint8]:
    """Decode the ids of a segmentation mask as they are stored, EXIF orientation applied.

    Args:
        path: Losslessly stored mask: palette, 1 to 8-bit grey, 16-bit grey up to 255, or colour
            with equal channels.
        config: Holds the pixel limit.

    Returns:
        uint8 (H, W), ids 0 to 255: the palette indices of a palette image, 0 and 1 of a 1-bit
        image, else the grey values.

    Raises:
        SampleError: The file is missing, damaged, lossy, or holds no plain ids.
    """
    with named(path):
        return _ids(read(path, config))


def decode_pair(
    image_path: File,
    mask_path: File,
    config: DecodeConfig,
    min_size: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Decode an image and the mask that belongs to it.

    Args:
        image_path: As `decode_image`.
        mask_path: As `decode_mask`; its size must be the image's full, oriented size.
        config: As `decode_image`.
        min_size: As `decode_image`; applies to the image alone.

    Returns:
        Image, uint8 (H, W, 3), and mask, uint8 (full height, full width).

    Raises:
        SampleError: Either file cannot be used, or their sizes differ.
    """
    with named(image_path):
        image = read(image_path, config)
        size = image.size
    with named(mask_path):
        mask = read(mask_path, config)
        fits = mask.size == size
    if not fits:
        raise SampleError(_size_conflict(image, mask))
    # What decoding a mask takes for a moment is then not on top of the image's pixels.
    with named(mask_path):
        ids = _ids(mask)
    with named(image_path):
        return _pixels(image, config, min_size), ids


def _size_conflict(image: Source, mask: Source) -> str:
    high, wide = image.size
    text = (
        f"mask {mask.path} must have the size of image {image.path}, {high}x{wide} "
        f"(height x width), but got {mask.size[0]}x{mask.size[1]}; store both at one size"
    )
    if image.orientation >= 5 and mask.size == (wide, high):
        text += " (the image is turned by its EXIF orientation, the mask is not)"
    return text


def _orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation (CIPA DC-008, tag 0x0112)."""
    match orientation:
        case 2:
            return cv2.flip(pixels, 1)
        case 3:
            return cv2.rotate(pixels, cv2.ROTATE_180)
        case 4:
            return cv2.flip(pixels, 0)
        case 5:
            return cv2.transpose(pixels)
        case 6:
            return cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        case 7:
            return cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180)
        case 8:
            return cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return pixels


def _pixels(
    source: Source, config: DecodeConfig, min_size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    orientation = source.orientation  # with the pixels, Pillow reads what stands behind them
    if _is_jpeg(source):
        pixels = _jpeg(source, min_size)
    elif isinstance(source.image, WebPImageFile) and source.image.mode == "RGB":
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(source.data, np.uint8), flags)
    elif 8 < source.bits <= 16:
        pixels = _flat(levels(source, config), config)
    else:
        pixels = None
    if pixels is None:  # also where OpenCV failed, as it does not say why
        image = source.image
        if image.mode in ("I", "F"):
            raise SampleError(
                f"{source.path} must hold 8 or 16-bit unsigned pixels, but got Pillow mode "
                f"{image.mode!r} ({source.bits} bits); convert it to 8-bit PNG"
            )
        pixels = _flat(image, config)
    return _orient(pixels, orientation)


def _is_jpeg(source: Source) -> bool:
    """Whether simplejpeg may decode it: 8-bit grey or RGB."""
    if source.plain_jpeg is not None:
        return True
    return isinstance(source.image, JpegImageFile) and source.image.mode in ("L", "RGB")


def _jpeg(source: Source, min_size: tuple[int, int] | None) -> NDArray[np.uint8] | None:
    """Decode grey or RGB, reduced where allowed; None where Pillow should judge the file."""
    height, width = source.stored_size
    shrinks = False
    if min_size is not None:
        least_height, least_width = turned(min_size, source.orientation)
        for factor in (8, 4, 2):  # libjpeg-turbo has fast kernels for these alone; it rounds up
            reduced = -(-height // factor), -(-width // factor)
            if reduced[0] >= least_height and reduced[1] >= least_width:
                height, width = reduced
                break
        shrinks = height > least_height and width > least_width
    try:
        # Smooth chroma between its half as many samples takes 15 % of the time, and is averaged
        # away where the image shrinks anyway.
        return simplejpeg.decode_jpeg(
            source.data, "RGB", min_height=height, min_width=width, fastupsample=shrinks
        )
    except ValueError as error:
        if any(text in str(error) for text in _HARMLESS):
            return None
        raise


def _flat(image: Image.Image, config: DecodeConfig) -> NDArray[np.uint8]:
    """Convert any 8-bit Pillow image to RGB (H, W, 3), transparent pixels on the background."""
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*config.background, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return _array(image if image.mode == "RGB" else image.convert("RGB"))


def _array(image: Image.Image) -> NDArray[np.uint8]:
    """Copy 8-bit pixels, (H, W) or (H, W, 3); at once it would take thrice their memory."""
    width, height = image.size
    lines = max(_BAND // width, 1)
    if height <= lines:
        return np.array(image, dtype=np.uint8)
    out = np.empty((height, width, 3) if image.mode == "RGB" else (height, width), np.uint8)
    for top in range(0, height, lines):
        bottom = min(top + lines, height)
        out[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return out


def _ids(source: Source) -> NDArray[np.uint8]:
    image = source.image
    _require_lossless(source)
    if image.mode in ("1", "P"):
        ids = _array(image)
    elif image.mode == "L":
        ids = _array(image)
        # Pillow spreads 2 and 4-bit grey over 0 to 255; ids are what was stored.
        ids //= {2: 85, 4: 17}.get(source.bits, 1)
    elif image.mode.startswith("I;16"):
        ids = _as_bytes(np.array(image), source.path)
    elif image.mode in ("LA", "RGB", "RGBA") and source.bits == 8:
        ids = _one_channel(np.array(image), source.path)
    else:
        raise SampleError(
            f"mask {source.path} must hold 8-bit ids, but got Pillow mode {image.mode!r} of "
            f"{source.bits} bits; convert it to 8-bit grey or palette PNG"
        )
    return _orient(ids, source.orientation)


def _require_lossless(source: Source) -> None:
    image = source.image
    lossy = (
        isinstance(image, JpegImageFile)
        # "VP8L" is lossless; the extended container "VP8X" may hold either.
        or (isinstance(image, WebPImageFile) and source.data[12:16] != b"VP8L")
        or (isinstance(image, TiffImageFile) and "jpeg" in image.info.get("compression", ""))
    )
    if lossy:
        raise SampleError(
            f"mask {source.path} must be stored losslessly, but got {image.format} with lossy "
            "compression, which changes ids; draw or export it again as PNG"
        )


def _as_bytes(values: NDArray[np.uint16], path: Path | str) -> NDArray[np.uint8]:
    if values.max() > 255:
        raise SampleError(
            f"mask {path} must hold ids from 0 to 255, but got {values.max()}; number its "
            "classes from 0 and store it as 8-bit PNG"
        )
    return values.astype(np.uint8)


def _one_channel(pixels: NDArray[np.uint8], path: Path | str) -> NDArray[np.uint8]:
    """Reduce grey and alpha, RGB or RGBA (H, W, 2 to 4) to (H, W) if nothing is lost."""
    has_alpha = pixels.shape[2] in (2, 4)
    transparent = has_alpha and bool((pixels[..., -1] != 255).any())
    colors = pixels[..., :-1] if has_alpha else pixels
    if transparent or (colors != colors[..., :1]).any():
        found = "transparent pixels" if transparent else "colours"
        raise SampleError(
            f"mask {path} must hold one id per pixel, but got {found}; convert it to 8-bit grey "
            "or palette PNG whose values are the class ids"
        )
    return np.ascontiguousarray(colors[..., 0])
