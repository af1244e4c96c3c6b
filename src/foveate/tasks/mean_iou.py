"""Mean IoU over any number of pixels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class MeanIoU(keras.metrics.MeanIoU):
    """That of Keras, for epochs of more than 2^31 pixels.

    Keras counts all pixels in the backend's integers, which have 32 bits on JAX and PyTorch. Here
    they count those of a batch; all batches are summed in float32, of which an epoch has too few
    for the rounding to matter.

    Args:
        num_classes: Number of classes.
        **settings: As for `keras.metrics.MeanIoU`.
    """

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__(num_classes, **settings)
        self._counts = self.add_variable(
            (num_classes, num_classes), "zeros", dtype="float32", name="counts"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch; arguments as for `keras.metrics.MeanIoU`."""
        super().reset_state()
        super().update_state(y_true, y_pred, sample_weight)
        self._counts.assign(self._counts + ops.cast(self.total_cm, "float32"))

    def reset_state(self) -> None:
        """Begin anew."""
        super().reset_state()
        self._counts.assign(ops.zeros_like(self._counts))

    def result(self) -> Any:
        """Mean over the classes that truth or prediction has, float32; 0 where there are none."""
        shared = ops.diag(self._counts)
        either = ops.sum(self._counts, axis=0) + ops.sum(self._counts, axis=1) - shared
        present = ops.cast(either > 0, "float32")
        return ops.sum(shared / ops.maximum(either, 1.0)) / ops.maximum(ops.sum(present), 1.0)
