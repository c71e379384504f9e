"""Metrics of classification, by torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Scores:
    """Overall accuracy (share of shapes), mean class accuracy (mean of the classes' shares), confusion [true, predicted]."""

    overall_accuracy: float
    mean_class_accuracy: float
    loss: float
    confusion: Tensor


def scores(logits: Tensor, label: Tensor, classes: int) -> Scores:
    """Scores of logits [n, classes] against label [n]; NaN where there is no shape. Classes without a shape do not count."""
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    if len(label) == 0:
        return Scores(
            float("nan"), float("nan"), float("nan"), torch.zeros(classes, classes, dtype=torch.int64)
        )
    confusion = multiclass_confusion_matrix(logits, label, classes)
    each = multiclass_accuracy(logits, label, classes, average="none")
    there = confusion.sum(1) > 0
    return Scores(
        float(multiclass_accuracy(logits, label, classes, average="micro")),
        float(each[there].mean()),
        float(torch.nn.functional.cross_entropy(logits, label)),
        confusion,
    )
