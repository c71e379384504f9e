"""Figures of classification against plain loops and hand-counted cases."""

import numpy as np
import pytest
import torch

from dropfold.train.scoring import metrics


def average_precision(score, label):
    """sum_k (recall_k - recall_{k-1}) precision_k over the scores in descending order (all different)."""
    found, hits, total = 0.0, 0, 0.0
    for k, i in enumerate(np.argsort(-score), 1):
        hits += label[i]
        total += label[i] * hits / k
    found = total / label.sum()
    return found


def test_classification_by_hand():
    """Six samples of classes 0, 0, 0, 1, 1, 2, seen as 0, 0, 1, 1, 0, 2; none is of class 3."""
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 0, 2])
    logits = 5.0 * torch.nn.functional.one_hot(predicted, 4)
    found = metrics.scores(logits, label)
    assert found.figures == pytest.approx(
        {"overall_accuracy": 4 / 6, "mean_class_accuracy": (2 / 3 + 1 / 2 + 1) / 3}
    )
    assert found.leading == pytest.approx(4 / 6)
    assert found.by_class[:3].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert found.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    right, wrong = -np.log(np.exp(5) / (np.exp(5) + 3)), -np.log(1 / (np.exp(5) + 3))
    assert found.loss == pytest.approx((4 * right + 2 * wrong) / 6, rel=1e-5)


def test_a_class_that_is_only_said_has_no_accuracy_of_its_own():
    found = metrics.scores(torch.eye(3), torch.tensor([0, 0, 0]))
    assert found.figures == pytest.approx({"overall_accuracy": 1 / 3, "mean_class_accuracy": 1 / 3})


def test_many_labels_against_the_area_under_precision_and_recall():
    random = np.random.default_rng(0)
    label = (random.uniform(size=(40, 5)) < 0.3).astype(np.float32)
    label[:, 3] = 0  # no sample has it: it does not count
    logits = random.normal(size=(40, 5)) + label
    found = metrics.scores(torch.from_numpy(logits).float(), torch.from_numpy(label))
    each = [average_precision(logits[:, c], label[:, c]) for c in (0, 1, 2, 4)]
    assert found.figures == pytest.approx({"mean_average_precision": np.mean(each)}, rel=1e-5)
    assert found.by_class[[0, 1, 2, 4]].tolist() == pytest.approx(each, rel=1e-5)
    assert found.by_class[3].isnan()
    p = 1 / (1 + np.exp(-logits))
    assert found.loss == pytest.approx(-(label * np.log(p) + (1 - label) * np.log(1 - p)).mean(), rel=1e-5)
    assert found.confusion is None


def test_average_precision_by_hand():
    """Of four samples the second and the fourth are right: precision 1/2 at recall 1/2, 2/4 at 1."""
    found = metrics.scores(
        torch.tensor([[4.0], [3.0], [2.0], [1.0]]), torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    )
    assert found.leading == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_average_precision_compares_the_logits_themselves():
    """The sigmoid of all of these is 1 in float32, or is 0; the order of the logits is still there."""
    logits = torch.tensor([[40.0, -300.0], [30.0, -200.0], [25.0, -150.0], [20.0, -120.0]])
    label = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = metrics.scores(logits, label)
    assert found.by_class.tolist() == [1.0, 1.0]
    close = 0.5 + 2.0**-24 * torch.arange(8)[:, None]  # neighbours in float32, whose sigmoids are equal
    label = (torch.arange(8)[:, None] >= 5).float()
    assert metrics.scores(close, label).leading == 1.0
    assert metrics.scores(-close, label).leading == pytest.approx((1 / 6 + 2 / 7 + 3 / 8) / 3)


def test_equal_scores_count_together():
    """Of four equal scores two are right: both see a precision of a half."""
    found = metrics.scores(torch.zeros(4, 1), torch.tensor([[1.0], [0.0], [1.0], [0.0]]))
    assert found.leading == 0.5


def test_scenes_by_hand():
    """Class 2 is there and never said (IoU 0), class 3 said and not there (IoU 0, no accuracy), class 4 neither (none)."""
    matrix = np.zeros((5, 5), np.int64)
    matrix[0, 0], matrix[0, 1], matrix[1, 1], matrix[1, 3], matrix[2, 0] = 6, 2, 3, 1, 4
    found = metrics.scene_scores(matrix, 0.5)
    iou = [6 / (8 + 10 - 6), 3 / (4 + 5 - 3), 0.0, 0.0]
    assert found.figures == pytest.approx(
        {
            "mean_iou": np.mean(iou),
            "overall_accuracy": 9 / 16,
            "mean_class_accuracy": np.mean([6 / 8, 3 / 4, 0.0]),
        }
    )
    np.testing.assert_allclose(found.by_class, [*iou, np.nan])
    assert found.loss == 0.5


def test_a_confusion_counts_rows_by_truth():
    found = metrics.confusion(np.array([0, 0, 1], np.uint8), np.array([0, 2, 1]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
