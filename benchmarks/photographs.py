"""JPEG files of the size that image datasets usually have, cut from real photographs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "retina", "rocket")
"""Those of scikit-image that come with the package; each is a class."""

_FILES_A_CLASS = 80
_SIZE = (375, 500)  # (height, width) of the typical photograph in ImageNet
_FILE_BYTES = 60_000  # at most; most files come out some 5 % smaller


def photograph_folder() -> Path:
    """Write class folders of 400 different JPEG files, once for all benchmarks.

    Returns:
        The folder; under the system's temporary one.
    """
    folder = Path(tempfile.gettempdir()) / "foveate-benchmark-photographs"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        for name in PHOTOGRAPHS:
            _write_class(Path(part) / "photographs" / name)
        (Path(part) / "photographs").rename(folder)
    return folder


def _write_class(folder: Path) -> None:
    from skimage import data

    folder.mkdir(parents=True)
    photograph = getattr(data, folder.name)()
    rng = np.random.default_rng(PHOTOGRAPHS.index(folder.name))
    for number in range(_FILES_A_CLASS):
        crop = _crop(photograph, rng)
        (folder / f"{number:03d}.jpg").write_bytes(_compress(crop))


def _crop(photograph: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut out a random part of the wanted shape, at 0.7 to 1 of the largest possible size."""
    height, width = photograph.shape[:2]
    scale = min(height / _SIZE[0], width / _SIZE[1]) * rng.uniform(0.7, 1.0)
    high, wide = int(_SIZE[0] * scale), int(_SIZE[1] * scale)
    top, left = rng.integers(0, [height - high, width - wide], endpoint=True)
    part = photograph[top : top + high, left : left + wide]
    return cv2.resize(part, _SIZE[::-1], interpolation=cv2.INTER_AREA)


def _compress(image: NDArray[np.uint8]) -> bytes:
    """Compress to the highest quality that keeps the file within the wanted bytes."""
    low, high = 1, 99
    while low < high:
        quality = (low + high + 1) // 2
        fits = len(_jpeg(image, quality)) <= _FILE_BYTES
        low, high = (quality, high) if fits else (low, quality - 1)
    return _jpeg(image, low)


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="420")
    return data
