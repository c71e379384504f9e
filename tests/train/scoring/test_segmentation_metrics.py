"""Metrics of parts and scenes against plain loops, by the rules of the peers' protocols."""

import numpy as np
import pytest

from dropfold.train.scoring import metrics

PART_CATEGORY = np.array([0, 0, 0, 1, 1, 2, 2])


def loops(label, predicted, ptr, category):
    """Each shape's mean over its category's parts: 1 for a part that neither is there nor is predicted."""
    ious = []
    for i, c in enumerate(category):
        rows, each = slice(ptr[i], ptr[i + 1]), []
        for part in np.flatnonzero(c == PART_CATEGORY):
            a, b = label[rows] == part, predicted[rows] == part
            each.append(1.0 if not (a | b).any() else (a & b).sum() / (a | b).sum())
        ious.append(np.mean(each))
    return np.array(ious)


def some(seed=0, shapes=30):
    random = np.random.default_rng(seed)
    category = random.integers(2, size=shapes)  # none of the third category
    ptr = np.concatenate([[0], np.cumsum(random.integers(1, 20, shapes))])
    label, predicted = np.empty((2, ptr[-1]), np.uint8)
    for i, c in enumerate(category):
        own = np.flatnonzero(c == PART_CATEGORY)
        for values in (label, predicted):
            values[ptr[i] : ptr[i + 1]] = random.choice(
                own[: random.integers(1, len(own) + 1)], ptr[i + 1] - ptr[i]
            )
    return label, predicted, ptr, category


def test_part_metrics_are_those_of_plain_loops():
    label, predicted, ptr, category = some()
    ious = metrics.shape_ious(label, predicted, ptr, category, PART_CATEGORY)
    np.testing.assert_allclose(ious, loops(label, predicted, ptr, category), rtol=1e-12)
    found = metrics.part_scores(ious, category, label, predicted, 3)
    each = [ious[category == c].mean() for c in range(2)]
    assert found.figures == pytest.approx(
        {
            "instance_mean_iou": ious.mean(),
            "class_mean_iou": np.mean(each),
            "overall_accuracy": (label == predicted).mean(),
        }
    )
    np.testing.assert_allclose(found.by_class, [*each, np.nan])
    assert found.leading == ious.mean()


def test_an_absent_part_that_is_not_predicted_counts_one():
    label, predicted = np.zeros(4, np.uint8), np.array([0, 0, 0, 1], np.uint8)
    (iou,) = metrics.shape_ious(label, predicted, np.array([0, 4]), np.array([0]), PART_CATEGORY)
    assert iou == pytest.approx((3 / 4 + 0 + 1) / 3)


def test_scene_metrics_are_those_of_plain_loops():
    random = np.random.default_rng(0)
    label, predicted = (
        random.integers(4, size=500),
        random.integers(5, size=500),
    )  # 4 is said, but not there; 5 neither
    matrix = metrics.confusion(label.astype(np.uint8), predicted, 6)
    for a in range(6):
        for b in range(6):
            assert matrix[a, b] == ((label == a) & (predicted == b)).sum()
    iou = [
        ((label == c) & (predicted == c)).sum() / ((label == c) | (predicted == c)).sum() for c in range(5)
    ]
    recall = [((label == c) & (predicted == c)).sum() / (label == c).sum() for c in range(4)]
    found = metrics.scene_scores(matrix)
    assert found.figures == pytest.approx(
        {
            "mean_iou": np.mean(iou),
            "overall_accuracy": (label == predicted).mean(),
            "mean_class_accuracy": np.mean(recall),
        }
    )
    np.testing.assert_allclose(found.by_class, [*iou, np.nan])


def test_the_confusion_of_parts_of_a_scene_adds_up():
    label, predicted = np.random.default_rng(1).integers(3, size=(2, 90))
    halves = [metrics.confusion(label[some], predicted[some], 3) for some in (slice(40), slice(40, 90))]
    np.testing.assert_array_equal(sum(halves), metrics.confusion(label, predicted, 3))
