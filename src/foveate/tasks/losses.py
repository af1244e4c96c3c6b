"""Losses on logits, equal for labels and masks, one value a sample.

A value a sample (not a batch) keeps every loss additive over the batch, so that accumulated
gradients equal those of the large batch. For masks the value has shape (B, 1, 1), which a
sample weight of that shape multiplies without ambiguity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from foveate.tasks.base import IGNORED


def balanced_weights(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Weigh classes by the inverse of their frequency, so that the mean weight of a sample is 1.

    Args:
        counts: Samples or pixels of each class, (K,); a class without any gets weight 0.

    Returns:
        K weights: total / (number of present classes * count), as in scikit-learn's "balanced".
    """
    present = np.count_nonzero(counts)
    weights = counts.sum() / (max(present, 1) * np.maximum(counts, 1))
    return tuple(np.where(counts > 0, weights, 0.0).tolist())


class CrossEntropyLoss(keras.losses.Loss):
    """Cross-entropy of class ids or class probabilities, with an optional focal factor.

    Focal factor: (1 - p)^gamma of the true class' probability p (Lin et al., 2017).

    Args:
        label_smoothing: Share of the target spread evenly over the classes, [0, 1).
        gamma: Focusing exponent; 0 is plain cross-entropy.
        class_weights: A factor for each class, or None.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str = "cross_entropy",
    ) -> None:
        super().__init__(name=name, reduction="sum_over_batch_size")
        self.label_smoothing = label_smoothing
        self.gamma = gamma
        self.class_weights = class_weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the loss.

        Args:
            y_true: Ids (B,) or (B, H, W), `IGNORED` where there is none; or probabilities (B, K).
            y_pred: Logits (B, K) or (B, H, W, K).

        Returns:
            (B,) or (B, 1, 1) float32.
        """
        logits = ops.cast(y_pred, "float32")
        if len(y_true.shape) == len(logits.shape):
            return self._of_probabilities(ops.cast(y_true, "float32"), logits)
        valid, ids = split_ignored(y_true)
        negative = ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)
        losses = self._smoothed(negative, logits)
        if self.class_weights is not None:
            losses = losses * ops.take(ops.convert_to_tensor(self.class_weights, "float32"), ids)
        return losses if len(logits.shape) == 2 else mean_of_valid(losses, valid)

    def _of_probabilities(self, targets: Any, logits: Any) -> Any:
        log_probabilities = ops.log_softmax(logits, axis=-1)
        negative = -ops.sum(targets * log_probabilities, axis=-1)
        losses = self._smoothed(negative, logits)
        if self.class_weights is not None:
            weights = ops.convert_to_tensor(self.class_weights, "float32")
            losses = losses * ops.sum(targets * weights, axis=-1)
        return losses

    def _smoothed(self, negative: Any, logits: Any) -> Any:
        if self.gamma:
            # 1 - p can round below zero, where a fractional power has no value.
            negative = negative * ops.maximum(1.0 - ops.exp(-negative), 1e-7) ** self.gamma
        if not self.label_smoothing:
            return negative
        uniform = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        return (1.0 - self.label_smoothing) * negative + self.label_smoothing * uniform


class DiceLoss(keras.losses.Loss):
    """One minus the soft Dice coefficient, averaged over classes (Milletari et al., 2016).

    Each sample has its own coefficient; adding one pixel to numerator and denominator gives a
    class that is neither there nor predicted the coefficient 1.

    Args:
        class_weights: A factor for each class, or None.
    """

    def __init__(self, class_weights: Sequence[float] | None = None, name: str = "dice") -> None:
        super().__init__(name=name, reduction="sum_over_batch_size")
        self.class_weights = class_weights

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the loss.

        Args:
            y_true: Class ids (B, H, W), `IGNORED` where there is none.
            y_pred: Logits (B, H, W, K).

        Returns:
            (B, 1, 1) float32.
        """
        logits = ops.cast(y_pred, "float32")
        valid, ids = split_ignored(y_true)
        valid = ops.expand_dims(valid, -1)
        targets = ops.one_hot(ids, logits.shape[-1]) * valid
        predicted = ops.softmax(logits, axis=-1) * valid
        overlap = ops.sum(targets * predicted, axis=(1, 2))
        total = ops.sum(targets, axis=(1, 2)) + ops.sum(predicted, axis=(1, 2))
        losses = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)
        if self.class_weights is not None:
            weights = np.asarray(self.class_weights, "float32")
            losses = losses * ops.convert_to_tensor(weights / max(float(weights.mean()), 1e-7))
        return ops.reshape(ops.mean(losses, axis=-1), (-1, 1, 1))


class CrossEntropyDiceLoss(keras.losses.Loss):
    """The sum of cross-entropy and Dice loss: one gradient for every pixel, one for the shape.

    Args:
        label_smoothing: As in `CrossEntropyLoss`.
        class_weights: A factor for each class, or None.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str = "cross_entropy_dice",
    ) -> None:
        super().__init__(name=name, reduction="sum_over_batch_size")
        self.cross_entropy = CrossEntropyLoss(label_smoothing, class_weights=class_weights)
        self.dice = DiceLoss(class_weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the loss; shapes as in `DiceLoss`."""
        return self.cross_entropy.call(y_true, y_pred) + self.dice.call(y_true, y_pred)


def split_ignored(ids: Any) -> tuple[Any, Any]:
    """Separate ids from the mark `IGNORED`.

    Args:
        ids: Integer ids of any shape.

    Returns:
        float32 1 where there is a class and 0 where not; int32 ids with 0 where there is none.
    """
    ids = ops.cast(ids, "int32")
    valid = ops.not_equal(ids, IGNORED)
    return ops.cast(valid, "float32"), ops.where(valid, ids, 0)


def mean_of_valid(losses: Any, valid: Any) -> Any:
    """Average per-pixel losses over the pixels that have a class.

    Args:
        losses: (B, H, W).
        valid: (B, H, W), 1 or 0.

    Returns:
        (B, 1, 1); 0 for a sample without any such pixel.
    """
    total = ops.sum(losses * valid, axis=(1, 2), keepdims=True)
    return total / ops.maximum(ops.sum(valid, axis=(1, 2), keepdims=True), 1.0)


def label_accuracy(y_true: Any, y_pred: Any) -> Any:
    """Say for each image whether its most probable class is the right one.

    Args:
        y_true: Class ids (B,), or class probabilities (B, K) of mixed images.
        y_pred: Logits (B, K).

    Returns:
        (B,) float32, 1 or 0.
    """
    if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == y_pred.shape[-1]:
        y_true = ops.argmax(y_true, axis=-1)
    ids = ops.reshape(ops.cast(y_true, "int32"), (-1,))
    return ops.cast(ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), ids), "float32")


class LabelAccuracy(keras.metrics.MeanMetricWrapper):
    """Share of images whose most probable class is right, of those that weigh anything.

    A weight says how much a sample teaches, not how much its answer counts; one of 0 marks what
    could not be read.
    """

    def __init__(self, name: str = "accuracy") -> None:
        super().__init__(label_accuracy, name=name)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Count a batch; see `label_accuracy` for the shapes, weights are (B,)."""
        if sample_weight is not None:
            sample_weight = ops.cast(ops.greater(sample_weight, 0.0), "float32")
        return super().update_state(y_true, y_pred, sample_weight)
