"""The two-shape game: two shapes of different classes lie in one cloud; on which one does the map of a class fall?

The truth is known without part labels. A score that knows no class gets 0.5 exactly, over both targets of a pair. It is
asked only of clouds in which the network sees both: both classes among its first `FIRST`. Of others no method can be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.explain.cut.passes import as_it_was
from dropfold.explain.score.saliency import saliencies
from dropfold.train.scoring.intervals import resample

FIRST = 3  # classes among which both shapes' must be
TOP = 8  # the top eighth of the points counts


@dataclass(frozen=True)
class Game:
    """Of P pairs: valid [P], whether the network sees both; top [P, 2], the share of the top eighth of points that lie on
    the shape of the target class, and mass [P, 2], that of the positive scores (NaN where none is positive)."""

    valid: Tensor
    top: Tensor
    mass: Tensor

    @property
    def share_valid(self) -> float:
        """Of the pairs."""
        return float(self.valid.double().mean())

    def mean_top(self) -> tuple[float, float, float]:
        """`(mean, low, high)` over valid pairs, with the 95 % bootstrap interval over pairs; NaN without any."""
        values = self.top[self.valid].mean(1).double().cpu().numpy()
        if not len(values):
            return float("nan"), float("nan"), float("nan")
        low, high = resample(len(values), lambda times: times @ values / len(values))
        return float(np.mean(values)), low, high


def pairs(logits: Tensor, label: Tensor, count: int, seed: int = 0) -> Tensor:
    """[P, 2] numbers of samples of different classes, each of which the network knows; at most `count`, none twice."""
    known = (logits.argmax(-1) == label).nonzero()[:, 0]
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))].tolist()
    found: list[tuple[int, int]] = []
    while len(order) > 1 and len(found) < count:
        first = order.pop(0)
        second = next((i for i in order if label[i] != label[first]), None)
        if second is not None:
            order.remove(second)
            found.append((first, second))
    return torch.tensor(found, dtype=torch.int64).view(-1, 2)


def two_shape_game(
    network: nn.Module, x: Tensor, label: Tensor, chosen: Tensor, name: str, seed: int = 0
) -> Game:
    """Play with clouds x [B, N, C] of classes [B]: the pairs `chosen` [P, 2] overlaid, the score `name` of both classes."""
    return two_shape_games(network, x, label, chosen, [name], seed)[name]


def two_shape_games(
    network: nn.Module, x: Tensor, label: Tensor, chosen: Tensor, names: Sequence[str], seed: int = 0
) -> dict[str, Game]:
    """`two_shape_game` by each name, of the same overlaid clouds."""
    both = torch.cat([x[chosen[:, 0]], x[chosen[:, 1]]], 1)  # [P, 2 N, C]
    n = x.shape[1]
    classes = label[chosen].to(x.device)
    if not len(both):
        nothing = torch.empty(0, 2, dtype=torch.float64, device=x.device)
        return {name: Game(nothing.any(1), nothing, nothing) for name in names}
    with as_it_was(network), torch.no_grad():
        first = network(both).argsort(-1, descending=True)[:, :FIRST]
    valid = (first[:, None] == classes[..., None]).any(-1).all(-1)
    front = torch.arange(2 * n, device=x.device) < n
    scores = saliencies(network, both, classes.unbind(1), names, seed)
    return {name: _game(valid, scores[name], (front, ~front)) for name in names}


def _game(valid: Tensor, scores: Sequence[Tensor], own: Sequence[Tensor]) -> Game:
    """Of the scores [P, 2 N] of each side's class, and whose points are its own [2 N]."""
    top, mass = [], []
    for side, mine in zip(scores, own, strict=True):
        highest = side.topk(side.shape[1] // TOP, -1).indices
        top.append(mine[highest].double().mean(1))
        positive = side.clamp(min=0).double()
        mass.append(positive[:, mine].sum(1) / positive.sum(1))
    return Game(valid, torch.stack(top, 1), torch.stack(mass, 1))
