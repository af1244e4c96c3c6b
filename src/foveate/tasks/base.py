"""The questions that every stage asks of what is predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from foveate.config.recipe import LossConfig

IGNORED = 255
"""Class id of pixels that are neither trained on nor scored."""


class Scorer(ABC):
    """Scores of a split, gathered batch by batch."""

    @abstractmethod
    def update(self, targets: NDArray[Any], logits: NDArray[np.float32]) -> None:
        """Take in one batch.

        Args:
            targets: Encoded targets, (B,) or (B, H, W).
            logits: What the model gave, (B, K) or (B, H, W, K).
        """

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """Return ``{"scores": {...}, ...}``, JSON values only."""


class Task(ABC):
    """A kind of target.

    Attributes:
        name: As in the setting `task`.
        per_pixel: Whether there is a prediction for every pixel, not one for the image.
        class_names: Names of the classes by id.
    """

    name: ClassVar[str]
    per_pixel: ClassVar[bool]

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)

    @property
    def num_outputs(self) -> int:
        """Number of logits, for an image or for each of its pixels."""
        return len(self.class_names)

    @abstractmethod
    def encode(self, targets: Any) -> NDArray[Any]:
        """Turn targets as the data states them into class ids.

        Args:
            targets: A sequence of labels, or one mask of stored values (H, W) uint8.

        Returns:
            int32 ids (N,) of labels, or uint8 ids (H, W) in which `IGNORED` marks no class.
        """

    @abstractmethod
    def loss(self, config: LossConfig, class_counts: NDArray[np.int64]) -> Any:
        """Make the Keras loss.

        Args:
            config: Which loss and how.
            class_counts: Training samples (or pixels) of each class, (K,).

        Returns:
            A `keras.losses.Loss` on float32 logits.
        """

    @abstractmethod
    def metrics(self) -> list[Any]:
        """Make the Keras metrics shown while training; the first is the most telling."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Start gathering scores."""

    @abstractmethod
    def decode(self, logits: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Turn logits into what a user reads, one entry a column, one item a sample.

        Args:
            logits: (B, K) or (B, H, W, K).

        Returns:
            Column name to array of length B (class ids of masks: (B, H, W) uint8).
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Describe the task in JSON values; `foveate.tasks.build.task_from_dict` reads them."""


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis.

    Args:
        logits: (..., K) float32.

    Returns:
        (..., K) float32 that sum to 1.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalized: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalized


def per_class(names: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Lay out per-class scores as rows.

    Args:
        names: Class names, K of them.
        columns: Score name to (K,) values.

    Returns:
        One dict a class, with its name under ``class``.
    """
    return [
        {"class": name, **{key: values[index].item() for key, values in columns.items()}}
        for index, name in enumerate(names)
    ]


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Average the scores that have a value.

    Args:
        values: (K,) with NaN where a score has no meaning.

    Returns:
        The mean of the others; NaN if there is none.
    """
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
