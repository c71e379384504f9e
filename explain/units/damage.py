"""What the loss of a unit does, and which of a unit's attributes go with it (Zhou et al. 2018).

With few samples accuracy is coarse, one sample near a tie flips for a third of all units: the loss of log p(truth) comes
first, the drop in accuracy beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dropfold.explain.units.ablation import Units
from dropfold.train.scoring.intervals import Z


@dataclass(frozen=True)
class Damage:
    """Of each of U units: loss [U], the mean fall of log p(truth); class_loss [U, K], of the samples of a class (NaN: of
    none); the falls in accuracy, accuracy_drop [U] and class_accuracy_drop [U, K]; and its worst_class [U]."""

    loss: Tensor
    class_loss: Tensor
    accuracy_drop: Tensor
    class_accuracy_drop: Tensor
    worst_class: Tensor

    @property
    def worst_class_loss(self) -> Tensor:
        """[U]: how far log p(truth) of the worst class falls."""
        return self.class_loss.gather(1, self.worst_class[:, None])[:, 0]


def damage(clean: Tensor, without: Tensor, label: Tensor, known: Damage | None = None) -> Damage:
    """Of logits [B, K] of the whole network, [U, B, K] without each unit, and the classes [B].

    The worst class is the one whose log p(truth) falls most in the samples of `known`, among those that have samples here;
    by default in these samples, whose largest fall is large by chance too, the more so the fewer samples a class has.
    """
    if without.dim() != 3 or without.shape[1:] != clean.shape or label.shape != clean.shape[:1]:
        raise ValueError(
            f"expected logits [B, K], [U, B, K] and classes [B]; got {list(clean.shape)}, {list(without.shape)} and "
            f"{list(label.shape)}."
        )
    truth = label[:, None]
    before = clean.double().log_softmax(-1).gather(-1, truth)[:, 0]
    at = truth.expand(len(without), -1, -1)
    fall = before - without.double().log_softmax(-1).gather(-1, at)[..., 0]
    right = (clean.argmax(-1) == label).double() - (without.argmax(-1) == label).double()
    members = torch.nn.functional.one_hot(label, clean.shape[1]).double()
    sizes = members.sum(0)  # 0 / 0 is NaN: a class without samples
    class_loss = fall @ members / sizes
    falls = class_loss if known is None else known.class_loss.to(class_loss.device)
    worst = torch.where(sizes > 0, falls.nan_to_num(-math.inf), -math.inf).argmax(1)
    return Damage(fall.mean(1), class_loss, right.mean(1), right @ members / sizes, worst)


def attributes(
    values: Units, label: Tensor, probabilities: Tensor, weight_in: Tensor | None, weight_out: Tensor
) -> dict[str, Tensor]:
    """What is known of units without ablating them, [U] each.

    class_selectivity: (mu_max - mu_rest) / (mu_max + mu_rest) of the class means, mu_rest the mean of the other classes
    (Morcos et al. 2018); values are shifted by their minimum, as the index needs them not negative. l1_in, l1_out: sums of
    |weights| [U, ..] and [.., U]. std_x_out: the standard deviation over samples times the norm of the out-weights.
    class_correlation: the largest |Pearson correlation| with the predicted probability of a class.
    """
    pooled = values.parts[0]
    if pooled.dim() > 2:
        pooled = pooled.flatten(1, -2).mean(1)
    pooled = pooled.double()
    members = torch.nn.functional.one_hot(label, probabilities.shape[1]).double()
    members = members[:, members.any(0)]
    shifted = pooled - pooled.amin(0)
    means = (shifted.T @ members) / members.sum(0)  # [U, classes that have samples]
    top = means.amax(1)
    rest = (means.sum(1) - top) / max(1, means.shape[1] - 1)
    out = weight_out.detach().double().unflatten(-1, (len(values.parts), -1))  # [H, parts, U]
    found = {
        "class_selectivity": ratio(top - rest, top + rest),
        "l1_out": out.abs().sum((0, 1)),
        "std_x_out": sum(part.double().flatten(0, -2).std(0) * out[:, i].norm(dim=0) for i, part in enumerate(values.parts)),
        "class_correlation": correlate(pooled, probabilities.double()).abs().amax(1),
    }  # fmt: skip
    if weight_in is not None:
        found["l1_in"] = weight_in.detach().double().flatten(1).abs().sum(1)
    return found


def effective_positions(values: Tensor) -> Tensor:
    """[U]: how many positions share a unit's activity in a sample, exp(entropy) of values [B, N, U] above their smallest in
    the sample, the mean over samples."""
    above = values.double() - values.double().amin(1, keepdim=True)
    share = ratio(above, above.sum(1, keepdim=True))
    return torch.special.entr(share).sum(1).exp().mean(0)


def correlate(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlations [U, K] of the columns of a [n, U] and b [n, K]; 0 where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    return ratio(a.T @ b, a.norm(dim=0)[:, None] * b.norm(dim=0))


def correlation(a: Tensor, b: Tensor) -> dict[str, float]:
    """Pearson's r of two attributes of units [U], with Fisher's 95 % interval."""
    n = len(a)
    r = float(correlate(a[:, None].double(), b[:, None].double()))
    half = Z / math.sqrt(n - 3) if n > 3 else math.inf
    z = math.atanh(max(-1 + 1e-15, min(1 - 1e-15, r)))
    return {"r": r, "low": math.tanh(z - half), "high": math.tanh(z + half), "units": n}


def correlations(found: dict[str, Tensor], of: Damage) -> dict[str, Any]:
    """Each attribute against the damage over all samples and against that of the worst class."""
    return {
        name: {
            "loss": correlation(value, of.loss),
            "worst_class_loss": correlation(value, of.worst_class_loss),
        }
        for name, value in found.items()
    }


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, 0 where b is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))
