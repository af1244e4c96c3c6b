"""Mean IoU while training: that of Keras, however many pixels there are."""

import keras
import numpy as np
import pytest

from foveate.tasks.mean_iou import MeanIoU

IGNORED = 255


def test_it_is_that_of_keras() -> None:
    rng = np.random.default_rng(0)
    settings = {"ignore_class": IGNORED, "sparse_y_pred": False}
    mine, theirs = MeanIoU(4, **settings), keras.metrics.MeanIoU(4, **settings)
    for _ in range(2):
        for _ in range(3):
            ids = rng.choice([0, 1, 2, IGNORED], (2, 5, 6)).astype(np.uint8)
            logits = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
            mine.update_state(ids, logits)
            theirs.update_state(ids, logits)
        assert float(mine.result()) == pytest.approx(float(theirs.result()))
        mine.reset_state()
        theirs.reset_state()
    assert float(mine.result()) == 0.0


def test_more_pixels_than_integers_of_32_bits_count() -> None:
    metric = MeanIoU(2, dtype="int32")
    truth, found = np.array([0, 0, 1]), np.array([0, 1, 1])
    for _ in range(3):
        metric.update_state(truth, found, np.full(3, 1_000_000_000, np.int32))
    assert float(metric.result()) == pytest.approx(0.5)
