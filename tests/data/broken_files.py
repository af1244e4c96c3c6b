"""Files as they come from the wild: what they hold, and what must become of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from foveate.config.settings import DecodeConfig

CONFIG = DecodeConfig(range_16bit=(0, 65535))
Y, X = np.mgrid[:24, :40]
RGB = np.stack([X * 6, Y * 10, (X + Y) * 3], axis=-1).astype(np.uint8)
"""A smooth picture, wider than high, without any symmetry."""
PHOTO = Image.fromarray(RGB)


@dataclass(frozen=True)
class Case:
    """A file and its expected outcome.

    Attributes:
        name: File name; its extension may lie.
        data: Its bytes; None is no file at all.
        pixels: What it shows, uint8 (H, W, 3); None where it must be refused.
        reason: What a refusal must say, a regular expression.
        tolerance: Most that a value may differ, for what lossy codecs round.
    """

    name: str
    data: bytes | None
    pixels: NDArray[np.uint8] | None = None
    reason: str = ""
    tolerance: int = 0


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(data: bytes) -> NDArray[np.uint8]:
    """What Pillow shows of a file."""
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def png_announcing(width: int, height: int) -> bytes:
    """A tiny PNG whose header, with a right checksum, announces any size."""
    data = bytearray(encoded(PHOTO, "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg_announcing(width: int, height: int) -> bytes:
    data = bytearray(encoded(PHOTO, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_announcing(width: int, height: int) -> bytes:
    """A GIF whose canvas is small and whose frame is not."""
    data = bytearray(encoded(PHOTO.quantize(16), "GIF"))
    frame = data.index(b",\0\0\0\0" + struct.pack("<HH", 40, 24))
    data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def damaged_files() -> list[Case]:
    """Files of which nothing can be learned."""
    jpeg, png = encoded(PHOTO, "JPEG"), encoded(PHOTO, "PNG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    lossy_mask = encoded(PHOTO, "WEBP")
    return [
        Case("missing.jpg", None, reason="No such file"),
        Case("empty.jpg", b"", reason="an empty file"),
        Case("page.jpg", b"<!DOCTYPE html><title>404</title>", reason=r"b'<!DOCTYPE html>"),
        Case("text.png", b"just words", reason="begins with b'just words'"),
        Case("zeros.jpg", bytes(5000), reason="begins with"),
        Case("cut_half.jpg", jpeg[: len(jpeg) // 2], reason="readable image"),
        Case("cut_end.jpg", jpeg[:-40], reason="Premature end"),
        Case("cut_header.jpg", jpeg[:100], reason="readable image"),
        Case("cut_marker.jpg", jpeg[:3], reason="readable image"),
        Case("cut_half.png", png[: len(png) // 2], reason="truncated|readable"),
        Case("cut_header.png", png[:20], reason="readable image"),
        Case("flipped.png", bytes(flipped), reason="readable image"),
        Case("cut_half.webp", lossy_mask[: len(lossy_mask) // 2], reason="readable image"),
        Case("video.jpg", b"\0\0\0\x18ftypmp42" + bytes(50), reason="begins with"),
    ]


def absurd_headers() -> list[Case]:
    """Small files that announce what no memory holds, or nothing at all."""
    return [
        Case("bomb.png", png_announcing(60_000, 50_000), reason="50000x60000.*max_pixels"),
        Case("endless.png", png_announcing(2**31 - 1, 2**31 - 1), reason="at most 200,000,000"),
        Case("bomb.jpg", jpeg_announcing(65_500, 65_500), reason="65500x65500.*max_pixels"),
        Case("largest.jpg", jpeg_announcing(65_535, 65_535), reason="65535x65535.*max_pixels"),
        Case("flat.jpg", jpeg_announcing(40, 0), reason="readable image"),
        Case("thin.jpg", jpeg_announcing(0, 24), reason="readable image"),
        Case("nothing.png", png_announcing(0, 0), reason="readable image"),
        Case("bomb.gif", gif_announcing(20_000, 30_000), reason="bomb|max_pixels"),
    ]


def unusual_files() -> list[Case]:
    """Files that viewers show, and so must we."""
    red, green = Image.new("RGB", (8, 6), "#ff0000"), Image.new("RGB", (8, 6), "#00ff00")
    frames: dict[str, Any] = {"save_all": True, "append_images": [green], "duration": 100}
    first = np.array(red)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    bits = Image.fromarray(RGB[..., 0]).convert("1")
    deep = RGB[..., 0].astype(np.uint16) * 257  # 257 = 65535 / 255: the levels come out again
    jpeg = encoded(PHOTO, "JPEG", quality=95)
    noise, nowhere = b"Exif\0\0" + bytes(range(99)), b"Exif\0\0MM\0*\xff\xff\xff\xff"
    cases = [
        Case("png_inside.jpg", encoded(PHOTO, "PNG"), RGB),
        Case("jpeg_inside.png", jpeg, shown(jpeg)),
        Case("no_extension", encoded(PHOTO, "BMP"), RGB),
        Case("animated.gif", encoded(red, "GIF", **frames), first),
        Case("animated.webp", encoded(red, "WEBP", lossless=True, **frames), first),
        Case("animated.png", encoded(red, "PNG", **frames), first),
        Case("pages.tif", encoded(red, "TIFF", **frames), first),
        Case("ink.jpg", encoded(ink, "JPEG", quality=95, icc_profile=profile),
             np.full((16, 16, 3), (255, 0, 0), np.uint8), tolerance=3),
        Case("one_bit.png", encoded(bits, "PNG"), np.array(bits.convert("RGB"))),
        Case("one_bit.tif", encoded(bits, "TIFF", compression="group4"),
             np.array(bits.convert("RGB"))),
        Case("deep_grey.png", encoded(Image.fromarray(deep), "PNG"),
             np.repeat(RGB[..., :1], 3, axis=-1)),
        Case("deep_color.png", deep_color(".png"), RGB),
        Case("deep_color.tif", deep_color(".tif"), RGB),
        Case("clear_palette.png", *clear_palette("PNG")),
        Case("clear_palette.gif", *clear_palette("GIF")),
        Case("rubbish_behind.jpg", jpeg + b"rubbish" * 100, shown(jpeg)),
        Case("rubbish_behind.png", encoded(PHOTO, "PNG") + b"rubbish", RGB),
        Case("exif_is_noise.jpg", encoded(PHOTO, "JPEG", quality=95, exif=noise), shown(jpeg)),
        Case("exif_is_nowhere.png", encoded(PHOTO, "PNG", exif=nowhere), RGB),
        Case("exif_says_9.png", encoded(PHOTO, "PNG", exif=exif(9)), RGB),
    ]  # fmt: skip
    for orientation in range(1, 9):
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            options = {"lossless": True} if kind == "WEBP" else {}
            data = encoded(PHOTO, kind, exif=exif(orientation), **options)
            cases.append(Case(f"turned_{orientation}.{kind.lower()}", data, shown(data)))
    return cases


def deep_color(extension: str) -> bytes:
    """RGB in 16 bits, which Pillow cannot write."""
    content: bytes = cv2.imencode(extension, RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    return content


def clear_palette(kind: str) -> tuple[bytes, NDArray[np.uint8]]:
    """A palette image with a transparent entry; the background shows through it."""
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    front, behind = (10, 20, 30), CONFIG.background
    pixels = np.array([[front, behind], [behind, front]], np.uint8)
    return encoded(image, kind, transparency=1), pixels


def all_cases() -> list[Case]:
    makers: list[Callable[[], list[Case]]] = [damaged_files, absurd_headers, unusual_files]
    return [case for make in makers for case in make()]
