"""A small real dataset written to disk.

Classification: the 1,797 handwritten digits (8x8 grey) that come with scikit-learn, as PNG files
in class folders. Segmentation: the same digits pasted on scikit-image's texture photographs;
these are composites, which makes their masks exact and their scores flattering.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.errors import ConfigError, MissingDependencyError, RunError

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "classification": {
        "data.image_size": "32",
        "data.batch_size": "32",
        "augment.preset": "none",
        "augment.geometry.rotation": "8",
        "augment.geometry.shift": "0.06",
        "augment.geometry.zoom": "0.08",
        "model.backbone": "simple_cnn",
        "recipe.epochs": "8",
    },
    "segmentation": {
        "data.image_size": "96",
        "data.batch_size": "16",
        "augment.preset": "light",
        "model.backbone": "simple_cnn",
        "model.decoder_channels": "128,64,32,16,16",
        "recipe.epochs": "6",
    },
}
"""Settings that suit each dataset, as flags."""

_SCENES = 600
_SCENE_SIDE = 96
_SEED = 0


def write_dataset(task: str, folder: Path) -> Path:
    """Write the dataset of a task, or find it written.

    Args:
        task: ``classification`` or ``segmentation``.
        folder: Where to; made whole or not at all.

    Returns:
        `folder`.

    Raises:
        ConfigError: There is no such task.
        RunError: The folder cannot be written.
        MissingDependencyError: scikit-image is needed for the textures.
    """
    writers = {"classification": _write_digits, "segmentation": _write_scenes}
    if task not in writers:
        raise ConfigError(f"quickstart --task must be one of {sorted(writers)}, but got {task!r}.")
    if folder.exists():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        writers[task](part)
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise RunError(f"{str(folder)!r} must be writable, but got: {error.strerror}.") from None
    return folder


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Digits (1797, 8, 8) uint8, white on black, and what they show."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    # Their ink is counted from 0 to 16.
    return (digits.images * (255 / 16)).round().astype(np.uint8), digits.target


def _write_digits(folder: Path) -> None:
    images, labels = _digits()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        _write(folder / str(label) / f"{number:04d}.png", image)


def _write_scenes(folder: Path) -> None:
    for number, (image, mask) in enumerate(_scenes()):
        _write(folder / "images" / f"{number:04d}.png", image)
        _write(folder / "masks" / f"{number:04d}.png", mask)


def _scenes() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Textures (S, S) uint8 with one to three digits on them, and masks: 1 is ink, 0 is not."""
    rng = np.random.default_rng(_SEED)
    digits, _ = _digits()
    textures = _textures()
    for _ in range(_SCENES):
        texture = textures[rng.integers(len(textures))]
        top, left = rng.integers(0, np.array(texture.shape) - _SCENE_SIDE, endpoint=True)
        image = texture[top : top + _SCENE_SIDE, left : left + _SCENE_SIDE].copy()
        mask = np.zeros_like(image)
        for _ in range(rng.integers(1, 4)):
            side = int(rng.integers(28, 57))
            digit = cv2.resize(digits[rng.integers(len(digits))], (side, side))
            ink = digit > 127
            y, x = rng.integers(0, _SCENE_SIDE - side, 2, endpoint=True)
            place = np.s_[y : y + side, x : x + side]
            image[place][ink] = digit[ink]
            mask[place][ink] = 1
        yield image, mask


def _textures() -> list[NDArray[np.uint8]]:
    try:
        from skimage import data
    except ImportError:
        raise MissingDependencyError(
            "The textures come with scikit-image, which is not installed. "
            'Run: pip install "foveate[quickstart]"'
        ) from None
    return [data.brick(), data.grass(), data.gravel()]


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
