"""What each kind of file costs: from files to batches at 224x224, beside decoding with OpenCV.

Both only resize, in as many threads as cores. OpenCV's side is the usual one: `imread`, `resize`
(bilinear; nearest for masks), and stacking.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.loader import threaded
from benchmarks.measuring import (
    Stream,
    loader_stream,
    measure_stream,
    print_machine,
    print_ratios,
    take_turns,
)
from benchmarks.photographs import PHOTOGRAPHS
from foveate.data.manifest import Manifest
from foveate.scale import runtime

_SIZE = (224, 224)
_BATCH = 8
_OURS = "foveate"
_SMALL, _LARGE, _LARGEST = (375, 500), (3000, 4000), (4000, 6000)

Writer = Callable[[Image.Image, Path], None]


def _jpeg(image: Image.Image, path: Path, progressive: bool = False) -> None:
    image.save(path.with_suffix(".jpg"), quality=90, progressive=progressive)


def _png(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".png"), compress_level=6)


_KINDS: dict[str, tuple[tuple[int, int], int, Writer]] = {
    "baseline JPEG, 500x375": (_SMALL, 20, _jpeg),
    "progressive JPEG, 500x375": (_SMALL, 20, partial(_jpeg, progressive=True)),
    "PNG, 500x375": (_SMALL, 20, _png),
    "baseline JPEG, 12 megapixels": (_LARGE, 3, _jpeg),
    "progressive JPEG, 12 megapixels": (_LARGE, 3, partial(_jpeg, progressive=True)),
    "baseline JPEG, 24 megapixels": (_LARGEST, 3, _jpeg),
    "PNG, 12 megapixels": (_LARGE, 3, _png),
}
"""Name to (height, width), files of each photograph, and how they are written."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each in each round")
    arguments = parser.parse_args()
    runtime.prepare("tensorflow")
    print_machine("foveate", "opencv-python-headless", "simplejpeg", "pillow")
    print(f"{arguments.threads} threads, {arguments.rounds} rounds in turn")
    with tempfile.TemporaryDirectory() as name:
        for kind, (size, files, write) in _KINDS.items():
            folder = _write(Path(name) / kind, size, files, write)
            manifest = Manifest.from_folder(folder)
            _compare(kind, manifest, arguments)
        masks = _write_masks(Path(name) / "masks")
        _compare("baseline JPEG with PNG mask, 12 megapixels", masks, arguments)


def _compare(kind: str, manifest: Manifest, arguments: argparse.Namespace) -> None:
    streams = {
        _OURS: _foveate(manifest, arguments.threads),
        "OpenCV": _opencv(manifest, arguments.threads),
    }
    turns = {
        name: partial(measure_stream, stream, arguments.seconds)
        for name, stream in streams.items()
    }
    print(f"\n{kind}")
    print_ratios(take_turns(turns, arguments.rounds), _OURS)


def _write(folder: Path, size: tuple[int, int], files: int, write: Writer) -> Path:
    rng = np.random.default_rng(0)
    for name in PHOTOGRAPHS:
        (folder / name).mkdir(parents=True)
        for number in range(files):
            write(_photograph(name, size, rng), folder / name / str(number))
    return folder


def _write_masks(folder: Path) -> Manifest:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name in PHOTOGRAPHS:
        image = _photograph(name, _LARGE, rng)
        image.save(folder / "images" / f"{name}.jpg", quality=90)
        ids = np.asarray(image.convert("L")) // 86  # three classes with ragged borders
        Image.fromarray(ids).save(folder / "masks" / f"{name}.png")
    return Manifest.from_folder(folder)


def _photograph(name: str, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Enlarge a real photograph and add the grain that a camera's pixels have."""
    from skimage import data

    pixels: NDArray[np.uint8] = getattr(data, name)()
    large = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 4, large.shape).astype(np.float32)
    return Image.fromarray(cv2.add(large, grain, dtype=cv2.CV_8U))


def _foveate(manifest: Manifest, threads: int) -> Stream:
    from foveate.data.loader import BatchLoader

    loader = BatchLoader(manifest, _SIZE, _BATCH, threads=threads)
    return loader_stream(loader)


def _opencv(manifest: Manifest, threads: int) -> Stream:
    rows = range(manifest.num_samples)
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]

    def read(batch: Sequence[int]) -> int:
        images = [cv2.imread(manifest.image_path(row)) for row in batch]
        np.stack([cv2.resize(image, _SIZE[::-1]) for image in images])
        if manifest.has_masks:
            flag, nearest = cv2.IMREAD_UNCHANGED, cv2.INTER_NEAREST
            masks = [cv2.imread(manifest.mask_path(row), flag) for row in batch]
            np.stack([cv2.resize(mask, _SIZE[::-1], interpolation=nearest) for mask in masks])
        return len(batch)

    return partial(threaded, read, batches, threads)


if __name__ == "__main__":
    main()
