"""Is what a map calls salient what the network needs? Dropping and insertion of points, layers drawn anew.

Fewer points are a valid input of a point network, which grey pixels are not of one for images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dropfold.explain.cut.passes import as_it_was
from dropfold.explain.score.saliency import saliencies, saliency
from dropfold.explain.units.damage import ratio

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)
INSERTED = (0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Curve:
    """Logits [S, B, K] at S fractions of the points dropped (or inserted)."""

    fractions: tuple[float, ...]
    logits: Tensor
    order: Literal["most", "least", "insertion"]

    def at(self, fractions: Sequence[float]) -> Curve:
        """Some of its fractions."""
        places = [self.fractions.index(fraction) for fraction in fractions]
        return Curve(tuple(fractions), self.logits[places], self.order)

    def right(self, label: Tensor) -> Tensor:
        """[S, B]: 1 where the prediction is the label [B]."""
        return (self.logits.argmax(-1) == label.to(self.logits.device)).double()

    def accuracy(self, label: Tensor) -> list[float]:
        """At each fraction."""
        return self.right(label).mean(1).tolist()

    def probability(self, target: Tensor) -> Tensor:
        """[S, B]: the probability of a class of each sample [B]."""
        p = self.logits.double().softmax(-1)
        return p.gather(-1, target[None, :, None].expand(len(p), -1, 1))[..., 0]


@torch.no_grad()
def dropping(
    network: nn.Module,
    x: Tensor,
    scores: Tensor,
    fractions: Sequence[float] = FRACTIONS,
    order: Literal["most", "least", "insertion"] = "most",
    batch_size: int = 64,
) -> Curve:
    """What the network says of clouds x [B, N, C] without their `most` (or `least`) salient points, by scores [B, N]; or,
    `insertion`, of the most salient ones alone. Points that stay keep their order, of equal scores the first goes first.

    Raises:
        ValueError: scores are not those of x, or a fraction leaves no point.
    """
    if scores.shape != x.shape[:2]:
        raise ValueError(f"scores must be {list(x.shape[:2])}, one a point of x; got {list(scores.shape)}.")
    if order not in ("most", "least", "insertion"):
        raise ValueError(f"order must be 'most', 'least' or 'insertion'; got {order!r}.")
    n = x.shape[1]
    ranked = scores.to(x.device).argsort(dim=1, descending=order != "least", stable=True)
    found = []
    with as_it_was(network):
        for fraction in fractions:
            gone = round(fraction * n)
            left = gone if order == "insertion" else n - gone
            if not 0 < left <= n:
                raise ValueError(f"a fraction of {fraction} leaves {left} of {n} points.")
            rows = (ranked[:, :gone] if order == "insertion" else ranked[:, gone:]).sort(1).values
            some = x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))
            found.append(torch.cat([network(part) for part in some.split(batch_size)]))
    return Curve(tuple(fractions), torch.stack(found), order)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rho of scores [B, N] and others, a sample after the other [B]. Equal scores share the mean of their ranks;
    scores that are all equal correlate with none, 0."""
    a, b = (r - r.mean(1, keepdim=True) for r in map(_ranks, (a, b)))
    return ratio((a * b).sum(1), a.norm(dim=1) * b.norm(dim=1))


def _ranks(scores: Tensor) -> Tensor:
    ordered = scores.contiguous().sort(1).values
    below, up_to = (torch.searchsorted(ordered, scores.contiguous(), right=right) for right in (False, True))
    return (below + up_to).double() / 2


def least_points(network: nn.Module) -> int:
    """The fewest points of a cloud that a network takes: DGCNN's k, as each point needs so many neighbours; else 1."""
    return int(getattr(network, "k", 1))


def inserted_shares(network: nn.Module, points: int) -> tuple[float, ...]:
    """From the fewest points of a cloud that the network takes: the shares at which insertion is looked at."""
    first = min(least_points(network), points) / points
    return (first, *(share for share in INSERTED if share > first))


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers by the names of their places (conv3, fc3), the last one first."""
    found = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear)]
    return {name.removesuffix(".linear"): module for name, module in reversed(found)}


def with_random_layers(network: nn.Module, count: int = 1, seed: int = 0) -> nn.Module:
    """A copy of a network whose last `count` linear layers are drawn anew (Adebayo et al. 2018), and the `norm` beside each
    is as new: the last one first, so that one more layer leaves those above it as they were drawn."""
    other = copy.deepcopy(network)
    layers = list(linear_layers(other).values())
    if not 1 <= count <= len(layers):
        raise ValueError(
            f"{type(network).__name__} has {len(layers)} linear layers; got {count} to draw anew."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers[:count]:
            layer.reset_parameters()
    drawn = set(layers[:count])
    for module in other.modules():
        norm = getattr(module, "norm", None)
        if getattr(module, "linear", None) in drawn and isinstance(norm, nn.modules.batchnorm._NormBase):
            norm.reset_parameters()
    return other


def sanity(network: nn.Module, x: Tensor, target: Tensor, name: str, count: int = 1, seed: int = 0) -> Tensor:
    """[B]: how a score of points correlates in rank with that of the network with its last layers drawn anew. A score that
    stays at 1 has not looked; one that is about what was learnt falls to the level of `unrelated` networks."""
    before = saliency(network, x, target, name, seed)
    after = saliency(with_random_layers(network, count, seed), x, target, name, seed)
    return rank_correlation(before, after)


def cascade(network: nn.Module, x: Tensor, target: Tensor, name: str, seed: int = 0) -> dict[str, Tensor]:
    """By layer, the last one first: |rho| [B] of a score and of that of the network in which this layer and all above it are
    drawn anew (Adebayo et al. 2018, cascading randomisation)."""
    return cascades(network, x, target, [name], seed)[name]


def cascades(
    network: nn.Module, x: Tensor, target: Tensor, names: Sequence[str], seed: int = 0
) -> dict[str, dict[str, Tensor]]:
    """`cascade` by each name."""
    before = saliencies(network, x, [target], names, seed)
    found: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for count, layer in enumerate(linear_layers(network), 1):
        after = saliencies(with_random_layers(network, count, seed), x, [target], names, seed)
        for name in names:
            found[name][layer] = rank_correlation(before[name][0], after[name][0]).abs()
    return found


def unrelated(
    network: nn.Module, x: Tensor, target: Tensor, names: Sequence[str], seed: int = 0
) -> dict[str, Tensor]:
    """By name: |rho| [B] of a score in two networks whose layers are all drawn anew. Scores of networks that have nothing in
    common but the cloud: what is left of a map with layers drawn anew is compared with this, which is not 0."""
    count = len(linear_layers(network))
    one, other = (
        saliencies(with_random_layers(network, count, seed + i), x, [target], names, seed) for i in (1, 2)
    )
    return {name: rank_correlation(one[name][0], other[name][0]).abs() for name in names}
