"""Small pictures of samples and what the model made of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.evaluation.predict import Predictor
from foveate.tasks.base import IGNORED

_SIDE = 192
# Okabe & Ito's colours, told apart with any colour vision.
OVERLAY_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
"""Tints of class 1, 2, and so on; class 0, usually background, stays clear."""


def write_pictures(
    predictor: Predictor, manifest: Manifest, config: RunConfig, folder: Path
) -> list[Path]:
    """Write a JPEG a row: the image, for masks also with true and predicted overlay.

    Args:
        predictor: The model.
        manifest: The rows, a few.
        config: The run's settings.
        folder: Emptied first.

    Returns:
        Paths of the pictures, in the order of the rows.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if manifest.num_samples == 0:
        return []
    folder.mkdir(parents=True)
    paths: list[Path] = []
    draw = _with_overlays if predictor.task.per_pixel else _alone
    for picture in draw(predictor, predictor.loader(manifest, config)):
        path = folder / f"{len(paths):02d}.jpg"
        path.write_bytes(cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes())
        paths.append(path)
    return paths


def _alone(predictor: Predictor, loader: BatchLoader) -> Iterator[NDArray[np.uint8]]:
    """Images whose labels are known; the model, compiled for other batches, need not run."""
    for images in predictor.images(loader):
        yield from map(_shrink, images)


def _with_overlays(predictor: Predictor, loader: BatchLoader) -> Iterator[NDArray[np.uint8]]:
    for judged in predictor.stream(loader):
        for place, image in enumerate(judged.images):
            ids = judged.targets[place], judged.logits[place].argmax(-1).astype(np.uint8)
            yield np.hstack([_shrink(image), *(_shrink(overlay(image, one)) for one in ids)])


def overlay(image: NDArray[np.uint8], ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tint an image by class.

    Args:
        image: (H, W, 3) uint8.
        ids: Class ids (H, W) uint8; class 0 stays clear, pixels without a class turn grey.

    Returns:
        (H, W, 3) uint8.
    """
    table = np.zeros((256, 3), np.uint8)
    tints = np.array([list(bytes.fromhex(color[1:])) for color in OVERLAY_COLORS], np.uint8)
    table[1:] = tints[np.arange(255) % len(tints)]
    table[IGNORED] = 128
    tint = np.where((ids == 0)[..., None], image, table[ids])
    return cv2.addWeighted(image, 0.45, tint, 0.55, 0.0)


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    )
