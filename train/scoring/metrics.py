"""Scores of predictions: of classes by torchmetrics, of many labels by rank, of parts and scenes by counts of points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

Predictions = dict[str, np.ndarray]  # a network's predictions on a split, by the names in predictions.npz


@dataclass
class Scores:
    """Figures by name, the leading one first; the leading figure of each class; the confusion matrix [target, predicted], if
    a sample has one class.

    One class a sample: overall_accuracy (over samples) and mean_class_accuracy (mean over classes of their accuracies).
    Any number of classes: mean_average_precision, the mean over classes of the area under precision against recall.
    """

    figures: dict[str, float]
    loss: float
    by_class: Tensor
    confusion: Tensor | None = None

    @property
    def leading(self) -> float:
        """The figure that a run is judged by."""
        return next(iter(self.figures.values()))


def scores(logits: Tensor, label: Tensor) -> Scores:
    """Scores of logits [n, classes] against label [n] or [n, classes]. Classes without a sample do not count."""
    classes = logits.shape[1]
    if label.ndim == 2:
        each = np.array(
            [average_precision(logits[:, c].numpy(), label[:, c].numpy()) for c in range(classes)]
        )
        loss = nn.functional.binary_cross_entropy_with_logits(logits, label)
        return Scores({"mean_average_precision": mean(each)}, float(loss), torch.from_numpy(each))
    from torchmetrics.functional import classification

    matrix = torch.from_numpy(confusion(label.numpy(), logits.argmax(1).numpy(), classes))
    accuracy = classification.multiclass_accuracy(logits, label, classes, average="none")
    figures = {
        "overall_accuracy": float(
            classification.multiclass_accuracy(logits, label, classes, average="micro")
        ),
        "mean_class_accuracy": float(accuracy[matrix.sum(1) > 0].mean()),
    }
    return Scores(figures, float(nn.functional.cross_entropy(logits, label)), accuracy, matrix)


def average_precision(score: np.ndarray, relevant: np.ndarray) -> float:
    """The area under precision against recall: the mean, over the relevant samples, of the share of relevant ones among the
    samples that score as high or higher. NaN if none is relevant.

    The scores themselves are compared. Probabilities made of them would not do: in float32 the sigmoid of every logit above
    17 is 1.
    """
    all_scores, found = np.sort(score), np.sort(score[relevant > 0])
    if not len(found):
        return float("nan")
    as_high = len(all_scores) - np.searchsorted(all_scores, found)
    relevant_as_high = len(found) - np.searchsorted(found, found)
    return float((relevant_as_high / as_high).mean())


def in_words(name: str) -> str:
    """A figure's name for readers."""
    return name.replace("_", " ").replace("iou", "IoU")


def in_a_line(figures: dict[str, float], digits: int = 1) -> str:
    """Figures from 0 to 1 in a line, in per cent."""
    return ", ".join(f"{in_words(name)} {100 * value:.{digits}f} %" for name, value in figures.items())


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix: samples (or points) by class [target, predicted], int64."""
    pairs = label.astype(np.int64) * classes + predicted
    return np.bincount(pairs.ravel(), minlength=classes * classes).reshape(classes, classes)


def scene_scores(matrix: np.ndarray, loss: float = np.nan) -> Scores:
    """Scores of a confusion matrix [target, predicted] over points: mean_iou, overall_accuracy, mean_class_accuracy.

    IoU of a class = points of the class that are predicted as it / points of the class or predicted as it. A class that
    neither occurs nor is predicted does not count; one that is predicted and does not occur has IoU 0, and no accuracy.
    """
    hit, target, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = ratio(hit, target + predicted - hit)
    figures = {
        "mean_iou": mean(iou),
        "overall_accuracy": float(hit.sum() / max(1, target.sum())),
        "mean_class_accuracy": mean(ratio(hit, target)),
    }
    return Scores(figures, loss, torch.from_numpy(iou), torch.from_numpy(matrix))


def shape_ious(
    label: np.ndarray, predicted: np.ndarray, ptr: np.ndarray, category: np.ndarray, part_category: np.ndarray
) -> np.ndarray:
    """[n]: for each shape, rows ptr[i] .. ptr[i + 1], the mean over its category's parts of their IoU; 1 for a part that
    neither occurs nor is predicted."""
    parts = len(part_category)
    start = np.repeat(np.arange(len(category)) * parts, np.diff(ptr))

    def counts(rows: np.ndarray) -> np.ndarray:
        return np.bincount(rows, minlength=len(category) * parts).reshape(-1, parts)

    same = label == predicted
    hit = counts(start[same] + label[same])
    union = counts(start + label) + counts(start + predicted) - hit
    iou = np.where(union > 0, hit / np.maximum(1, union), 1.0)
    own = part_category[None, :] == category[:, None]
    return (iou * own).sum(1) / own.sum(1)


def part_scores(
    ious: np.ndarray,
    category: np.ndarray,
    label: np.ndarray,
    predicted: np.ndarray,
    categories: int,
    loss: float = np.nan,
) -> Scores:
    """instance_mean_iou, the mean over shapes of their IoU; class_mean_iou, the mean over categories of the mean over their
    shapes; overall_accuracy, over points. `by_class` is by category."""
    shapes = np.bincount(category, minlength=categories)
    by_category = ratio(np.bincount(category, ious, categories), shapes)
    figures = {
        "instance_mean_iou": float(ious.mean()),
        "class_mean_iou": mean(by_category),
        "overall_accuracy": float((label == predicted).mean()),
    }
    return Scores(figures, loss, torch.from_numpy(by_category))


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else float("nan")
