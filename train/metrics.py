"""Metrics of classification, by torchmetrics."""

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
    return name.replace("_", " ")
