"""What answers are worth: classification by torchmetrics, parts and scenes by their confusion of points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

Answers = dict[str, np.ndarray]  # what a network says of a split, by the names of predictions.npz


@dataclass
class Scores:
    """Figures by name, the leading one first; what each class reaches; confusion [true, predicted] where a sample has one
    class.

    One class a sample: overall_accuracy (share of samples) and mean_class_accuracy (mean of the classes' shares).
    Any number of classes: mean_average_precision, the mean over classes of the area under precision against recall.
    """

    figures: dict[str, float]
    loss: float
    each: Tensor
    confusion: Tensor | None = None

    @property
    def leading(self) -> float:
        """The figure that a run is judged by."""
        return next(iter(self.figures.values()))


def scores(logits: Tensor, label: Tensor) -> Scores:
    """Scores of logits [n, classes] against label [n] or [n, classes]. Classes without a sample do not count."""
    from torchmetrics.functional import classification

    classes = logits.shape[1]
    if label.ndim == 2:
        each = torch.full((classes,), torch.nan)
        for c in range(classes):
            if label[:, c].any():
                each[c] = classification.binary_average_precision(logits[:, c], label[:, c].long())
        loss = nn.functional.binary_cross_entropy_with_logits(logits, label)
        return Scores({"mean_average_precision": float(each.nanmean())}, float(loss), each)
    confusion = classification.multiclass_confusion_matrix(logits, label, classes)
    each = classification.multiclass_accuracy(logits, label, classes, average="none")
    there = confusion.sum(1) > 0
    figures = {
        "overall_accuracy": float(
            classification.multiclass_accuracy(logits, label, classes, average="micro")
        ),
        "mean_class_accuracy": float(each[there].mean()),
    }
    return Scores(figures, float(nn.functional.cross_entropy(logits, label)), each, confusion)


def in_words(name: str) -> str:
    """A figure's name as a reader wants it."""
    return name.replace("_", " ").replace("iou", "IoU")


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Points by class [true, predicted], int64."""
    both = label.astype(np.int64) * classes + predicted
    return np.bincount(both.ravel(), minlength=classes * classes).reshape(classes, classes)


def scene_scores(matrix: np.ndarray, loss: float = np.nan) -> Scores:
    """Of a confusion matrix [true, predicted] summed over all points: mean_iou, overall_accuracy, mean_class_accuracy.

    IoU of a class = points that are it and are said to be / points that are it or are said to be. A class that neither is
    there nor is said does not count; one that is not there and is said has IoU 0, and no accuracy.
    """
    hit, true, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = ratio(hit, true + said - hit)
    figures = {
        "mean_iou": mean(iou),
        "overall_accuracy": float(hit.sum() / max(1, true.sum())),
        "mean_class_accuracy": mean(ratio(hit, true)),
    }
    return Scores(figures, loss, torch.from_numpy(iou), torch.from_numpy(matrix))


def shape_ious(
    label: np.ndarray, predicted: np.ndarray, ptr: np.ndarray, category: np.ndarray, part_category: np.ndarray
) -> np.ndarray:
    """[n]: of each shape, rows ptr[i] .. ptr[i + 1], the mean over its category's parts of their IoU; 1 for a part that
    neither is there nor is predicted."""
    parts = len(part_category)
    start = np.repeat(np.arange(len(category)) * parts, np.diff(ptr))

    def counts(rows: np.ndarray) -> np.ndarray:
        return np.bincount(rows, minlength=len(category) * parts).reshape(-1, parts)

    same = label == predicted
    true, said, hit = (
        counts(start + label),
        counts(start + predicted),
        counts(start[same] + label[same]),
    )
    union = true + said - hit
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
    shapes; overall_accuracy, the share of points. `each` is by category."""
    shapes = np.bincount(category, minlength=categories)
    each = ratio(np.bincount(category, ious, categories), shapes)
    figures = {
        "instance_mean_iou": float(ious.mean()),
        "class_mean_iou": mean(each),
        "overall_accuracy": float((label == predicted).mean()),
    }
    return Scores(figures, loss, torch.from_numpy(each))


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


def mean(values: np.ndarray) -> float:
    """The mean of what is not NaN."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
