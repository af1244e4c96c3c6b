import numpy as np
import pytest
from sklearn import metrics

from foveate.errors import ManifestError, RunError, SampleError
from foveate.tasks.base import IGNORED, softmax
from foveate.tasks.build import task_from_dict
from foveate.tasks.classification import Classification
from foveate.tasks.segmentation import Segmentation


def test_labels_become_ids_and_unknown_ones_are_told() -> None:
    task = Classification(["cat", "dog", "emu"])
    assert task.encode(["emu", "cat"]).tolist() == [2, 0]
    with pytest.raises(ManifestError, match=r"'dgo'.*Did you mean 'dog'"):
        task.encode(["cat", "dgo"])


def test_classification_scores_gathered_in_batches() -> None:
    rng = np.random.default_rng(0)
    task = Classification(["a", "b", "c", "never"])
    logits = rng.normal(size=(90, 4)).astype(np.float32)
    targets = rng.integers(0, 3, 90)
    logits[np.arange(90), targets] += 1.0
    scorer = task.scorer()
    for start in range(0, 90, 32):
        scorer.update(targets[start : start + 32], logits[start : start + 32])
    result = scorer.result()
    predicted, probabilities = logits.argmax(-1), softmax(logits)
    scores = result["scores"]
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(targets, predicted))
    f1 = metrics.f1_score(targets, predicted, labels=[0, 1, 2], average="macro")
    assert scores["macro_f1"] == pytest.approx(f1)
    areas = [metrics.roc_auc_score(targets == k, probabilities[:, k]) for k in range(3)]
    assert scores["roc_auc"] == pytest.approx(np.mean(areas))
    never = result["per_class"][3]
    assert [np.isnan(never[score]) for score in ("roc_auc", "recall", "f1")] == [True] * 3
    assert np.isnan(never["precision"]) == (3 not in predicted)
    assert np.sum(result["confusion_matrix"]) == 90


def test_decoded_predictions_name_the_class() -> None:
    task = Classification(["cat", "dog"])
    columns = task.decode(np.array([[0.0, np.log(3.0)]], np.float32))
    assert columns["predicted"].tolist() == ["dog"]
    assert columns["confidence"][0] == pytest.approx(0.75)
    assert columns["probability.cat"][0] == pytest.approx(0.25)


def test_mask_values_become_ids() -> None:
    task = Segmentation(["back", "front"], values=[0, 200], ignore=255)
    mask = np.array([[0, 200], [255, 0]], np.uint8)
    assert task.encode(mask).tolist() == [[0, 1], [IGNORED, 0]]
    with pytest.raises(SampleError, match=r"\[7\]"):
        task.encode(np.array([[7]], np.uint8))


def test_a_class_may_have_the_value_255() -> None:
    task = Segmentation(["back", "front"], values=[0, 255])
    assert task.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]


def test_segmentation_scores_gathered_in_batches() -> None:
    rng = np.random.default_rng(1)
    task = Segmentation(["a", "b", "c"], values=[0, 1, 2])
    targets = rng.integers(0, 2, (6, 5, 7)).astype(np.uint8)
    targets[0, 0] = IGNORED
    predicted = np.where(rng.random(targets.shape) < 0.7, np.minimum(targets, 2), 1)
    logits = np.eye(3, dtype=np.float32)[predicted]
    scorer = task.scorer()
    for start in (0, 4):
        scorer.update(targets[start : start + 4], logits[start : start + 4])
    result = scorer.result()
    valid = targets != IGNORED
    flat = targets[valid], predicted[valid]
    iou = metrics.jaccard_score(*flat, labels=[0, 1], average=None)
    assert result["scores"]["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(*flat))
    assert [row["iou"] for row in result["per_class"]][:2] == pytest.approx(iou.tolist())
    there = [0, 1, 2] if (predicted[valid] == 2).any() else [0, 1]
    expected = metrics.jaccard_score(*flat, labels=there, average="macro", zero_division=0)
    assert result["scores"]["mean_iou"] == pytest.approx(expected)


def test_decoded_masks_hold_the_values_of_the_data() -> None:
    task = Segmentation(["back", "front"], values=[0, 200])
    logits = np.zeros((1, 2, 2, 2), np.float32)
    logits[0, 0, 0, 1] = 1.0
    columns = task.decode(logits)
    assert columns["mask"].tolist() == [[[200, 0], [0, 0]]]
    assert columns["share.front"].tolist() == [0.25]


@pytest.mark.parametrize(
    "task", [Classification(["a", "b"]), Segmentation(["a", "b"], [0, 9], ignore=3)]
)
def test_tasks_survive_a_description(task: Classification | Segmentation) -> None:
    again = task_from_dict(task.to_dict())
    assert again.to_dict() == task.to_dict()


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(RunError, match="'pose'"):
        task_from_dict({"name": "pose", "class_names": []})
