import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foveate.tasks.base import IGNORED, softmax
from foveate.tasks.losses import (
    CrossEntropyDiceLoss,
    CrossEntropyLoss,
    DiceLoss,
    balanced_weights,
    label_accuracy,
)

LOGITS = hnp.arrays(np.float32, (4, 3), elements=st.floats(-5, 5, width=32))
LABELS = hnp.arrays(np.int32, (4,), elements=st.integers(0, 2))
few = settings(max_examples=25, deadline=None)


def value(loss, targets, logits) -> float:  # type: ignore[no-untyped-def]
    return float(loss(targets, logits))


@few
@given(LOGITS, LABELS)
def test_cross_entropy_is_the_mean_log_probability(logits: np.ndarray, labels: np.ndarray) -> None:
    expected = -np.log(softmax(logits)[np.arange(4), labels]).mean()
    assert value(CrossEntropyLoss(), labels, logits) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@few
@given(LOGITS, LABELS, st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.0, 2.0]))
def test_ids_and_probabilities_agree(
    logits: np.ndarray, labels: np.ndarray, smoothing: float, gamma: float
) -> None:
    loss = CrossEntropyLoss(smoothing, gamma, class_weights=(0.5, 1.0, 2.0))
    one_hot = np.eye(3, dtype=np.float32)[labels]
    assert value(loss, one_hot, logits) == pytest.approx(
        value(loss, labels, logits), rel=1e-4, abs=1e-5
    )


def test_label_smoothing_is_the_smoothed_target() -> None:
    logits = np.array([[1.0, -2.0, 0.5]], np.float32)
    smoothed = np.array([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    expected = -(smoothed * np.log(softmax(logits)[0])).sum()
    loss = CrossEntropyLoss(label_smoothing=0.1)
    assert value(loss, np.array([0]), logits) == pytest.approx(expected, rel=1e-5)


def test_focal_lets_easy_samples_go() -> None:
    logits = np.array([[6.0, 0.0], [0.0, 0.0]], np.float32)
    labels = np.array([0, 0])
    easy = value(CrossEntropyLoss(gamma=2.0), labels[:1], logits[:1])
    hard = value(CrossEntropyLoss(gamma=2.0), labels[1:], logits[1:])
    assert hard == pytest.approx(0.25 * np.log(2), rel=1e-4)  # (1 - 1/2)^2 * -log(1/2)
    assert easy < 1e-6


def test_ignored_pixels_do_not_count() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    ids = rng.integers(0, 3, (2, 4, 4)).astype(np.uint8)
    ids[:, :2] = IGNORED
    changed = logits.copy()
    changed[:, :2] = 50.0
    for loss in (CrossEntropyLoss(0.1), DiceLoss(), CrossEntropyDiceLoss()):
        assert value(loss, ids, logits) == pytest.approx(value(loss, ids, changed), rel=1e-5)
    nothing = np.full_like(ids, IGNORED)
    assert value(CrossEntropyLoss(), nothing, logits) == 0.0
    assert np.isfinite(value(DiceLoss(), nothing, logits))


def test_dice_of_right_and_wrong_masks() -> None:
    ids = np.zeros((1, 8, 8), np.uint8)
    ids[:, :4] = 1
    sure = np.where(np.eye(2, dtype=bool)[ids], 30.0, -30.0).astype(np.float32)
    assert value(DiceLoss(), ids, sure) == pytest.approx(0.0, abs=1e-6)
    # All wrong: overlap 0, so 1 - 1 / (32 + 32 + 1) for both classes.
    assert value(DiceLoss(), ids, -sure) == pytest.approx(1 - 1 / 65, rel=1e-5)


def test_losses_are_additive_over_samples() -> None:
    """What makes accumulated gradients equal those of the large batch."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 6, 6, 3)).astype(np.float32)
    ids = rng.integers(0, 3, (4, 6, 6)).astype(np.uint8)
    ids[0, :3] = IGNORED
    for loss in (CrossEntropyLoss(), DiceLoss(), CrossEntropyDiceLoss(class_weights=(1, 2, 3))):
        parts = [value(loss, ids[i : i + 2], logits[i : i + 2]) for i in (0, 2)]
        assert value(loss, ids, logits) == pytest.approx(np.mean(parts), rel=1e-5)


def test_sample_weights_of_masks() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(2, 2, 2, 2)).astype(np.float32)  # batch, height, width all alike
    ids = rng.integers(0, 2, (2, 2, 2)).astype(np.uint8)
    weights = np.array([1.0, 0.0], np.float32).reshape(2, 1, 1)
    loss = CrossEntropyDiceLoss()
    expected = value(loss, ids[:1], logits[:1]) / 2
    assert float(loss(ids, logits, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=8).filter(any))
def test_balanced_weights_have_mean_one(counts: list[int]) -> None:
    array = np.array(counts, np.int64)
    weights = np.array(balanced_weights(array))
    assert (weights * array).sum() == pytest.approx(array.sum())
    shares = (weights * array)[array > 0]
    np.testing.assert_allclose(shares, shares[0])


def test_accuracy_of_ids_and_of_mixed_labels() -> None:
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], np.float32)
    assert np.asarray(label_accuracy(np.array([0, 1]), logits)).tolist() == [1.0, 0.0]
    mixed = np.array([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7]], np.float32)
    assert np.asarray(label_accuracy(mixed, logits)).tolist() == [1.0, 1.0]
