"""Whether damaged files can do harm: of all that may come out of decoding, only SampleError may.

A process of its own decodes file after file, each a real one of some format that was damaged at
random. A file that crashes it, holds it up, takes too much memory, raises anything else or makes
a codec write to stderr is kept and named, with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import resource
import struct
import tempfile
import time
import traceback
import zlib
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from foveate.config.settings import DecodeConfig
from foveate.data.decode import decode_image, decode_mask, probe
from foveate.errors import SampleError

_CONFIG = DecodeConfig(max_pixels=2_000_000, range_16bit=(0, 65535))
_SECONDS = 10.0
"""Longest that one file may take: a thousand times what the undamaged ones do."""
_MEMORY = 4 * 1024**3
"""Most address space of the process that decodes; libraries alone take about one GiB."""
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def main() -> None:
    """Fuzz for a while, then say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="the first; each file has the next")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    arguments = parser.parse_args()
    files = sample_files()
    decoder = Decoder()
    seed, findings = arguments.seed, 0
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            name, data = damaged_file(files, seed)
            path = Path(folder) / name
            path.write_bytes(data)
            problem = decoder.judge(path)
            if problem:
                findings += 1
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / f"{seed}-{name}").write_bytes(data)
                print(f"seed {seed}, {name}: {problem}", flush=True)
            seed += 1
    decoder.stop()
    print(f"seeds {arguments.seed} to {seed - 1}: {findings} findings")
    raise SystemExit(bool(findings))


def sample_files() -> dict[str, bytes]:
    """Make a small file of each kind that the decoder takes, by name."""
    y, x = np.mgrid[:31, :44]
    image = Image.fromarray(np.stack([x * 5, y * 8, (x * y) % 256], axis=-1).astype(np.uint8))
    grey, palette, ink = image.convert("L"), image.quantize(16), image.convert("CMYK")
    clear = Image.merge("RGBA", [*image.split(), grey])
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "baseline.jpg": (image, "JPEG", {}),
        "progressive.jpg": (image, "JPEG", {"progressive": True, "exif": turned}),
        "restart.jpg": (image, "JPEG", {"restart_marker_blocks": 2, "subsampling": 0}),
        "grey.jpg": (grey, "JPEG", {"icc_profile": bytes(200)}),
        "cmyk.jpg": (ink, "JPEG", {"icc_profile": bytes(200)}),
        "color.png": (image, "PNG", {"exif": turned}),
        "palette.png": (palette, "PNG", {"transparency": 3}),
        "bit.png": (grey.convert("1"), "PNG", {}),
        "alpha.png": (clear, "PNG", {}),
        "grey16.png": (deep, "PNG", {}),
        "animated.png": (image, "PNG", frames),
        "lossy.webp": (image, "WEBP", {"exif": turned}),
        "lossless.webp": (grey.convert("RGB"), "WEBP", {"lossless": True}),
        "alpha.webp": (clear, "WEBP", {}),
        "animated.webp": (image, "WEBP", frames),
        "plain.tif": (image, "TIFF", {}),
        "deflate.tif": (image, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "lzw.tif": (palette, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg.tif": (image, "TIFF", {"compression": "jpeg"}),
        "packbits.tif": (ink, "TIFF", {"compression": "packbits"}),
        "fax.tif": (grey.convert("1"), "TIFF", {"compression": "group4"}),
        "big.tif": (deep, "TIFF", {"big_tiff": True}),
        "pages.tif": (grey, "TIFF", {**frames, "compression": "tiff_lzw"}),
        "color.bmp": (image, "BMP", {}),
        "palette.bmp": (palette, "BMP", {}),
        "animated.gif": (palette, "GIF", frames),
    }
    made = {}
    for name, (pixels, kind, options) in kinds.items():
        buffer = io.BytesIO()
        pixels.save(buffer, kind, **options)
        made[name] = buffer.getvalue()
    for name in ("color16.png", "color16.tif"):  # Pillow cannot write these
        colors = np.asarray(image).astype(np.uint16) * 257
        made[name] = cv2.imencode(name[-4:], colors)[1].tobytes()
    return made


def damaged_file(files: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """Choose one of the files and damage it: the same for the same seed, on any machine.

    Args:
        files: What `sample_files` gave.
        seed: Any number.

    Returns:
        The name of the undamaged file, and the bytes.
    """
    rng = random.Random(seed)
    name = rng.choice(sorted(files))
    return name, damaged(files[name], list(files.values()), rng)


def damaged(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Damage a file in a few places.

    Args:
        data: The file.
        others: Files whose parts may be put into it.
        rng: Decides where and how.

    Returns:
        The damaged file; it may be empty.
    """
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        # Headers are short and decide the most.
        place = rng.randrange(rng.choice((64, 512, len(content) + 1))) % (len(content) + 1)
        end = min(place + rng.choice((1, 2, 4, 16, 256)), len(content))
        content[place:end] = _instead_of(bytes(content[place:end]), others, rng)
    if rng.random() < 0.1:
        del content[rng.randrange(len(content) + 1) :]
    if rng.random() < 0.7:
        _mend_checksums(content)
    return bytes(content)


def _instead_of(part: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Choose what stands in a file in place of some of its bytes."""
    match rng.randrange(6):
        case 0:  # a flipped bit each
            return bytes(byte ^ 1 << rng.randrange(8) for byte in part)
        case 1:  # an extreme number of two or four bytes, of either order
            kind = rng.choice(("<H", ">H", "<I", ">I"))
            number = rng.choice(_EXTREMES) % 256 ** struct.calcsize(kind)
            return struct.pack(kind, number) + part[struct.calcsize(kind) :]
        case 2:  # noise
            return rng.randbytes(len(part))
        case 3:  # a part of another file
            other = rng.choice(others)
            start = rng.randrange(len(other))
            return other[start : start + rng.choice((4, 64, 1024))]
        case 4:  # itself again and again
            return part * rng.choice((2, 3, 50))
    return b""


def _mend_checksums(content: bytearray) -> None:
    """Make the checksums of a PNG right, or all its damage is found by them."""
    place = 8
    while content.startswith(b"\x89PNG") and place + 12 <= len(content):
        body = place + 8
        end = body + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            return
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[place + 4 : end]))
        place = end + 4


class Decoder:
    """A process that decodes files, and a new one after each that it does not survive."""

    def __init__(self) -> None:
        self._start()

    def judge(self, path: Path) -> str:
        """Decode a file.

        Args:
            path: The file.

        Returns:
            What is wrong with how it was taken; nothing is an empty text.
        """
        self._connection.send(str(path))
        if not self._connection.poll(_SECONDS):
            self.stop()
            self._start()
            return f"takes more than {_SECONDS} s"
        try:
            answer: str = self._connection.recv()
        except EOFError:
            self._process.join()
            answer = f"ends the process with exit code {self._process.exitcode}"
            self._start()
        return answer

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()


def _serve(connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with tempfile.TemporaryFile() as noise, suppress(EOFError):
        os.dup2(noise.fileno(), 2)
        while True:
            answer = _decode(Path(connection.recv()))
            os.lseek(2, 0, os.SEEK_SET)
            written = os.read(2, 500)
            os.ftruncate(2, 0)
            os.lseek(2, 0, os.SEEK_SET)
            connection.send(answer or (f"writes to stderr: {written!r}" if written else ""))


def _decode(path: Path) -> str:
    for read in (
        lambda: np.zeros(probe(path, _CONFIG)[:0], np.uint8),
        lambda: decode_image(path, _CONFIG),
        lambda: decode_image(path, _CONFIG, (8, 8)),
        lambda: decode_mask(path, _CONFIG),
    ):
        try:
            pixels = read()
        except SampleError as error:
            if str(path) not in str(error):
                return f"is not named in {str(error)!r}"
        except BaseException:
            return traceback.format_exc()
        else:
            if pixels.dtype != np.uint8 or pixels.size > 3 * _CONFIG.max_pixels:
                return f"becomes {pixels.dtype} {pixels.shape}"
    return ""


if __name__ == "__main__":
    main()
