"""One class a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.config.recipe import LossConfig
from foveate.errors import SampleError
from foveate.tasks.base import IGNORED, Scorer, Task, mean_of_known, per_class

_UNKNOWN = 254
"""Marks mask values that no class has while a mask is encoded."""


class Segmentation(Task):
    """Choose one of K classes for each pixel.

    Args:
        class_names: Names of the classes by id.
        values: Mask value of each class, ascending, each 0 to 255.
        ignore: Mask value of pixels without a class, or None.
    """

    name = "segmentation"
    per_pixel = True

    def __init__(
        self, class_names: Sequence[str], values: Sequence[int], ignore: int | None = None
    ) -> None:
        super().__init__(class_names)
        self.values = tuple(values)
        self.ignore = ignore
        self._table = np.full(256, _UNKNOWN, np.uint8)
        self._table[list(self.values)] = np.arange(len(self.values))
        if ignore is not None:
            self._table[ignore] = IGNORED

    def encode(self, targets: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn one mask's values into class ids; see `Task.encode`.

        Raises:
            SampleError: The mask holds a value that is no class.
        """
        ids: NDArray[np.uint8] = self._table[targets]
        if (ids == _UNKNOWN).any():
            found = np.unique(targets[ids == _UNKNOWN]).tolist()
            raise SampleError(
                f"A mask must hold only the values {list(self.values)}, but got {found}. "
                "Set data.masks.ignore if one of them marks unlabelled pixels."
            )
        return ids

    def loss(self, config: LossConfig, class_counts: NDArray[np.int64]) -> Any:
        """Make the loss; see `Task.loss`."""
        from foveate.tasks import losses

        balanced = config.class_weights == "balanced"
        weights = losses.balanced_weights(class_counts) if balanced else None
        if config.name == "dice":
            return losses.DiceLoss(weights)
        if config.name in ("auto", "cross_entropy_dice"):
            return losses.CrossEntropyDiceLoss(config.label_smoothing, weights)
        gamma = config.gamma if config.name == "focal" else 0.0
        return losses.CrossEntropyLoss(config.label_smoothing, gamma, weights)

    def metrics(self) -> list[Any]:
        """Mean IoU over all pixels seen; see `Task.metrics`."""
        from foveate.tasks.mean_iou import MeanIoU

        return [
            MeanIoU(self.num_outputs, ignore_class=IGNORED, sparse_y_pred=False, name="mean_iou")
        ]

    def scorer(self) -> SegmentationScorer:
        """Start gathering scores; see `Task.scorer`."""
        return SegmentationScorer(self.class_names)

    def decode(self, logits: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Give each pixel's class as the mask value it was trained on; see `Task.decode`."""
        ids = logits.argmax(-1)
        shares = [(ids == index).mean(axis=(1, 2)) for index in range(self.num_outputs)]
        return {"mask": self.mask_values(ids), **self.share_columns(np.stack(shares, axis=-1))}

    def mask_values(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Turn class ids of any shape into the mask values of the training data, uint8."""
        values: NDArray[np.uint8] = np.asarray(self.values, np.uint8)[ids]
        return values

    def share_columns(self, shares: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Name the share of each class in the pixels of images, (B, K)."""
        return {f"share.{name}": shares[:, index] for index, name in enumerate(self.class_names)}

    def to_dict(self) -> dict[str, Any]:
        """Describe the task; see `Task.to_dict`."""
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            "values": list(self.values),
            "ignore": self.ignore,
        }


class SegmentationScorer(Scorer):
    """Counts pixels by true and predicted class: K x K numbers, however many images.

    Args:
        class_names: Names of the K classes by id.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._counts = np.zeros((len(class_names), len(class_names)), np.int64)

    def update(self, targets: NDArray[Any], logits: NDArray[np.float32]) -> None:
        """Take in one batch; see `Scorer.update`."""
        self.add(confusion(targets, logits.argmax(-1), len(self._class_names)))

    def add(self, counts: NDArray[np.int64]) -> None:
        """Take in pixels by true (rows) and predicted class, (K, K)."""
        self._counts += counts

    def result(self) -> dict[str, Any]:
        """Compute all scores over the pixels of the whole split.

        Returns:
            ``scores``, ``per_class`` and ``confusion_matrix`` (pixels; rows are the true class).
            A class that is neither there nor predicted does not count in a mean.
        """
        counts = self._counts.astype(np.float64)
        iou, dice = overlap_scores(counts)
        pixels = counts.sum(axis=1)
        with np.errstate(invalid="ignore"):
            precision, recall = np.diag(counts) / counts.sum(axis=0), np.diag(counts) / pixels
        return {
            "scores": {
                "mean_iou": mean_of_known(iou),
                "dice": mean_of_known(dice),
                "pixel_accuracy": float(np.diag(counts).sum() / max(counts.sum(), 1.0)),
            },
            "per_class": per_class(
                self._class_names,
                {
                    "iou": iou,
                    "dice": dice,
                    "precision": precision,
                    "recall": recall,
                    "pixels": self._counts.sum(axis=1),
                },
            ),
            "confusion_matrix": self._counts.tolist(),
        }


def confusion(
    targets: NDArray[Any], predicted: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """Count pixels by true and predicted class.

    Args:
        targets: Class ids of any shape, `IGNORED` where there is none.
        predicted: Class ids of the same shape.
        num_classes: K.

    Returns:
        (K, K) int64; rows are the true class.
    """
    valid = targets != IGNORED
    pairs = targets[valid].astype(np.int64) * num_classes + predicted[valid]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def overlap_scores(counts: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intersection over union and Dice coefficient of each class.

    Args:
        counts: (K, K) pixels by true (rows) and predicted class.

    Returns:
        IoU and Dice, each (K,) float64; NaN for a class that is neither there nor predicted.
    """
    hits = np.diag(counts).astype(np.float64)
    total = counts.sum(axis=0) + counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return hits / (total - hits), 2 * hits / total
