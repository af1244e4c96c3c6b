"""One class an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.config.recipe import LossConfig
from foveate.errors import ManifestError, listed, nearest
from foveate.tasks.base import Scorer, Task, mean_of_known, per_class, softmax


class Classification(Task):
    """Choose one of K classes for each image."""

    name = "classification"
    per_pixel = False

    def encode(self, targets: Sequence[str]) -> NDArray[np.int32]:
        """Turn labels into class ids; see `Task.encode`.

        Raises:
            ManifestError: A label is not among the classes.
        """
        ids = {name: index for index, name in enumerate(self.class_names)}
        unknown = sorted({label for label in targets if label not in ids})
        if unknown:
            raise ManifestError(
                f"Labels must be among the {len(ids)} classes of the model, but got "
                f"{listed([repr(label) for label in unknown])}."
                f"{nearest(unknown[0], self.class_names)}"
            )
        return np.fromiter((ids[label] for label in targets), np.int32, len(targets))

    def loss(self, config: LossConfig, class_counts: NDArray[np.int64]) -> Any:
        """Make cross-entropy or focal loss; see `Task.loss`."""
        from foveate.tasks.losses import CrossEntropyLoss, balanced_weights

        balanced = config.class_weights == "balanced"
        return CrossEntropyLoss(
            label_smoothing=config.label_smoothing,
            gamma=config.gamma if config.name == "focal" else 0.0,
            class_weights=balanced_weights(class_counts) if balanced else None,
        )

    def metrics(self) -> list[Any]:
        """Accuracy, right for ids and for mixed labels; see `Task.metrics`."""
        from foveate.tasks.losses import LabelAccuracy

        return [LabelAccuracy()]

    def scorer(self) -> Scorer:
        """Start gathering scores; see `Task.scorer`."""
        return ClassificationScorer(self.class_names)

    def decode(self, logits: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Name the most probable class, and every probability; see `Task.decode`."""
        probabilities = softmax(logits)
        names = np.asarray(self.class_names, dtype=object)
        columns: dict[str, NDArray[Any]] = {
            "predicted": names[probabilities.argmax(-1)],
            "confidence": probabilities.max(-1),
        }
        for index, name in enumerate(self.class_names):
            columns[f"probability.{name}"] = probabilities[:, index]
        return columns

    def to_dict(self) -> dict[str, Any]:
        """Describe the task; see `Task.to_dict`."""
        return {"name": self.name, "class_names": list(self.class_names)}


class ClassificationScorer(Scorer):
    """Gathers class ids and probabilities: 4 (K + 1) bytes a sample.

    Args:
        class_names: Names of the K classes by id.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._targets: list[NDArray[np.int32]] = []
        self._probabilities: list[NDArray[np.float32]] = []

    def update(self, targets: NDArray[Any], logits: NDArray[np.float32]) -> None:
        """Take in one batch; see `Scorer.update`."""
        self._targets.append(targets.astype(np.int32))
        self._probabilities.append(softmax(logits))

    def result(self) -> dict[str, Any]:
        """Compute all scores; a score without meaning on this split is NaN.

        Returns:
            ``scores``, ``per_class`` and ``confusion_matrix`` (rows are the true class).
        """
        from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

        targets = np.concatenate(self._targets)
        probabilities = np.concatenate(self._probabilities).astype(np.float64)
        predicted = probabilities.argmax(-1)
        ids = np.arange(len(self._class_names))
        precision, recall, f1, support = precision_recall_fscore_support(
            targets, predicted, labels=ids, zero_division=0.0
        )
        area, average_precision = _ranking_scores(targets, probabilities)
        there = support > 0
        said = np.bincount(predicted, minlength=len(ids)) > 0
        recall[~there] = f1[~there] = np.nan
        precision[~there & ~said] = np.nan
        probabilities /= probabilities.sum(-1, keepdims=True)
        return {
            "scores": {
                "accuracy": float((predicted == targets).mean()),
                "balanced_accuracy": float(recall[there].mean()),
                "macro_precision": float(precision[there].mean()),
                "macro_recall": float(recall[there].mean()),
                "macro_f1": float(f1[there].mean()),
                "roc_auc": mean_of_known(area),
                "average_precision": mean_of_known(average_precision),
                "log_loss": float(log_loss(targets, probabilities, labels=ids)),
            },
            "per_class": per_class(
                self._class_names,
                {
                    "precision": precision,
                    "recall": recall,
                    "f1": f1,
                    "support": support,
                    "roc_auc": area,
                    "average_precision": average_precision,
                },
            ),
            "confusion_matrix": confusion_matrix(targets, predicted, labels=ids).tolist(),
        }


def _ranking_scores(
    targets: NDArray[np.int32], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One-against-rest ROC-AUC and average precision, (K,); NaN where a side is empty."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    area = np.full(probabilities.shape[1], np.nan)
    precision = area.copy()
    for index in range(len(area)):
        positive = targets == index
        if positive.any() and not positive.all():
            area[index] = roc_auc_score(positive, probabilities[:, index])
            precision[index] = average_precision_score(positive, probabilities[:, index])
    return area, precision
