r"""Infidelity of a map (Yeh et al. 2019, equation 1), with perturbations that leave a valid input: points dropped.

For a cloud x, a logit f and scores phi, in logits a point,

    infidelity = E_I [(sum_{i in I} phi_i - (f(x) - f(x without I)))^2],

I a random set of a share of the points, each as likely as another. A map says here by how much the logit falls without
I. With a factor, alpha s in place of s = sum_I phi, scores in other units than logits are compared: of d = f(x) -
f(x without I) the best alpha is E[s d] / E[s^2], fitted on half of the sets and judged on the other half, each in turn,
so that a map gains nothing by chance. Beside them stands E[d^2], the infidelity of a map of zeros: relative to it 0 is
exact. A map that is the same everywhere, as random scores nearly are in sums, says the mean fall of the cloud; with a
factor that is below 1 where the mean's square is above the variance over the number of sets that it is fitted on. A map
that finds something is below random scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dropfold.explain.cut.passes import as_it_was
from dropfold.explain.units.damage import ratio

SETS, SHARE = 8, 0.1  # random sets of a cloud, and the share of its points in each


@dataclass(frozen=True)
class Drops:
    """Sets of points, bool [S, B, N], and by how much the logit falls without each, [S, B]."""

    sets: Tensor
    fall: Tensor


@dataclass(frozen=True)
class Infidelity:
    """Of each cloud [B]: of the map as it is, of the map times a factor, and of a map of zeros."""

    as_it_is: Tensor
    scaled: Tensor
    zeros: Tensor

    def relative(self, values: Tensor) -> float | None:
        """The mean over clouds relative to that of maps of zeros; None where no set changes a logit."""
        nothing = float(self.zeros.mean())
        return float(values.mean()) / nothing if nothing else None


@torch.no_grad()
def random_drops(
    network: nn.Module,
    x: Tensor,
    target: Tensor,
    seed: int = 0,
    sets: int = SETS,
    share: float = SHARE,
    batch_size: int = 64,
    logits: Tensor | None = None,
) -> Drops:
    """The fall of the logits of classes `target` [B] of clouds x [B, N, C] without random sets of points; every score of
    these clouds is compared with the same ones. `logits` [B, K] are those of whole clouds, if they are known.

    Raises:
        ValueError: a share that drops no point, or all; fewer than two sets.
    """
    if sets < 2:
        raise ValueError(f"two sets are needed at least, half of which fit a factor; got {sets}.")
    b, n = x.shape[:2]
    count = round(share * n)
    if not 0 < count < n:
        raise ValueError(f"a share of {share} drops {count} of {n} points; expected some, and not all.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(sets, b, n, generator=generator).argsort(-1).to(x.device)
    left = order[..., count:].sort(-1).values

    def logit(clouds: Tensor) -> Tensor:
        parts = zip(clouds.split(batch_size), target.split(batch_size), strict=True)
        return torch.cat([network(part).gather(1, c[:, None])[:, 0] for part, c in parts])

    with as_it_was(network):
        whole = logit(x) if logits is None else logits.gather(1, target[:, None])[:, 0]
        falls = [whole - logit(x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))) for rows in left]
    gone = torch.zeros(sets, b, n, dtype=torch.bool, device=x.device)
    return Drops(gone.scatter_(-1, order[..., :count], True), torch.stack(falls))


def infidelity(scores: Tensor, drops: Drops) -> Infidelity:
    """Of a map [B, N]; see the head of this file."""
    if scores.shape != drops.sets.shape[1:]:
        raise ValueError(f"scores must be {list(drops.sets.shape[1:])}; got {list(scores.shape)}.")
    d = drops.fall.double()
    s = (scores.to(drops.fall.device).double() * drops.sets).sum(-1)
    half = len(s) // 2
    fitted = [ratio((s * d)[part].sum(0), (s * s)[part].sum(0)) for part in (slice(half, None), slice(half))]
    factor = torch.stack([fitted[0]] * half + [fitted[1]] * (len(s) - half))
    return Infidelity(((s - d) ** 2).mean(0), ((factor * s - d) ** 2).mean(0), (d * d).mean(0))
