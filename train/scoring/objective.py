"""The loss and the accuracy of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropfold.train.config.configs import Config


def loss_function(logits: Tensor, label: Tensor, config: Config, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits [..., classes] against classes [...], or binary cross-entropy if label [B, classes] is of
    floating point, 0 or 1 for each class. `weight` [classes] weighs the samples (or points) of each class.

    label_smoothing spreads its probability over the *other* classes, as antao97 has it. PyTorch spreads over all classes, so
    it is given C / (C - 1) times ours.
    """
    if label.is_floating_point():
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), label)
    classes = logits.shape[-1]
    smoothing = min(1.0, config.label_smoothing * classes / (classes - 1))
    logits, label = logits.float().reshape(-1, classes), label.reshape(-1)
    if weight is None:
        return nn.functional.cross_entropy(logits, label, label_smoothing=smoothing)
    # PyTorch would weigh each class of a smoothed target by its own weight: rare classes would get most of the smoothing.
    losses = nn.functional.cross_entropy(logits, label, label_smoothing=smoothing, reduction="none")
    return (weight[label] * losses).sum() / weight[label].sum()


def restrict_to_family(logits: Tensor, family: Tensor, to: Tensor) -> Tensor:
    """Logits [..., classes], minus infinity for the classes whose family, `family` [classes], differs from `to` [...]."""
    return logits.masked_fill(family != to[..., None], -torch.inf)


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Share of the samples (or points) whose class is predicted; with many labels, share of the labels that are."""
    predicted = logits > 0 if label.is_floating_point() else logits.argmax(-1)
    return (predicted == label).float().mean()
