"""Scores of points by name: the methods of `explain`, and what they are compared with.

radius            distance from the cloud's centre; knows neither network nor class
feature_norm      |F_i| at the cut (FBI: Levi and Gilboa 2024); knows no class
critical_points   how many channels' maxima the point wins (Qi et al. 2017, section 4.3); knows no class
zheng             -dL/dr_i r_i^2 of the cross-entropy L, r_i from the cloud's median (Zheng et al. 2019, alpha = 1)
zheng_iterative   the same, anew after each few points that it has dropped
random            uniform numbers of the seed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dropfold.explain.cut.cuts import EVIDENCE, cut_of
from dropfold.explain.cut.inputs import Inputs
from dropfold.explain.cut.passes import Pass, as_it_was, detached
from dropfold.explain.cut.positions import Winners
from dropfold.explain.maps.maps import map_scores
from dropfold.explain.maps.methods import METHODS
from dropfold.explain.units.ablation import Units, pooled_layer

IN_LOGITS = (*METHODS, "ablation")  # others have units of their own
ROUNDS = 20  # of zheng_iterative, until half of the points are dropped
Scorer = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


def saliency(network: nn.Module, x: Tensor, target: Tensor, name: str, seed: int = 0) -> Tensor:
    """Scores [B, N] of dense clouds x [B, N, C] for the classes `target` [B]; ValueError if there is no such score."""
    return saliencies(network, x, [target], [name], seed)[name][0]


@torch.inference_mode(False)  # with gradients, wherever it is called
def saliencies(
    network: nn.Module, x: Tensor, targets: Sequence[Tensor], names: Sequence[str], seed: int = 0
) -> dict[str, list[Tensor]]:
    """`saliency` by each name for each of `targets`; what several share, a forward or a gradient, is computed once."""
    for name in names:
        if name not in (*IN_LOGITS, *SCORES):
            known = ", ".join([*IN_LOGITS, *SCORES])
            raise ValueError(f"a score of points is one of {known}; got {name!r}.")
    x = x.clone() if x.is_inference() else x  # through which no gradient may go
    maps = [name for name in names if name in IN_LOGITS]
    found = map_scores(network, x, targets, maps) if maps else {}
    with as_it_was(network):
        for name in names:
            if name in CLASS_AGNOSTIC:
                found[name] = [SCORES[name](network, x, targets[0], seed)] * len(targets)
            elif name not in found:
                found[name] = [SCORES[name](network, x, target, seed) for target in targets]
    return found


def radius(network: nn.Module, x: Tensor, target: Tensor, seed: int) -> Tensor:
    """Distances from the mean."""
    pos = x[..., :3]
    return (pos - pos.mean(1, keepdim=True)).norm(dim=-1)


def feature_norm(network: nn.Module, x: Tensor, target: Tensor, seed: int) -> Tensor:
    """The norm of a point's features at the cut; of a centre, at its own point and the winners of its channels."""
    run = Pass(network, cut_of(network), Inputs.of(network, x))
    with Winners(network, run.cut.levels) as winners:
        f = run.capture(gradients=False)[0][EVIDENCE]
    norm = f.norm(dim=-1)
    if not run.cut.levels:
        return norm
    return winners.carry(norm[..., None], run.inputs)


def critical_points(network: nn.Module, x: Tensor, target: Tensor, seed: int) -> Tensor:
    """Channels of the pooled feature that a point wins; of a centre, given to the winners of its channels."""
    cut, inputs = cut_of(network), Inputs.of(network, x)
    with Winners(network, cut.levels) as winners:
        argmax = winning_points(network, x)
    many = winners.centres(inputs) if cut.levels else x.shape[1]
    counts = x.new_zeros(len(x), many).scatter_add(1, argmax, torch.ones_like(argmax, dtype=x.dtype))
    return winners.carry(counts[..., None], inputs)


def winning_points(network: nn.Module, x: Tensor) -> Tensor:
    """int64 [B, C]: the point of each cloud (of PointNet++ the centre) that wins each channel of the pooled feature."""
    return pooled_features(network, x).winners


class Pooled(NamedTuple):
    """What a forward of B clouds says of its pooled layer: logits [B, K], the pooled values, and int64 [B, C], the point
    (of PointNet++ the centre) that wins each channel."""

    logits: Tensor
    values: Units
    winners: Tensor


@torch.no_grad()
def pooled_features(network: nn.Module, x: Tensor) -> Pooled:
    """Of dense clouds [B, N, C], in one forward."""
    layer: Any = network.get_submodule(pooled_layer(network))
    layer = layer.layers[-1] if hasattr(layer, "layers") else layer
    seen: list[tuple[Tensor, ...]] = []

    def ask(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return args, kwargs | {"return_argmax": True}

    def note(module: nn.Module, args: Any, out: Any) -> Any:
        seen.append(out)
        return out[:-1] if len(out) > 2 else out[0]

    with as_it_was(network), ExitStack() as stack:
        stack.callback(layer.register_forward_pre_hook(ask, with_kwargs=True).remove)
        stack.callback(layer.register_forward_hook(note).remove)
        logits = network(x)
    *values, winners = seen[0]
    return Pooled(logits, Units(tuple(values)), winners)


def zheng(network: nn.Module, x: Tensor, target: Tensor, seed: int) -> Tensor:
    """One shot."""
    given = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = torch.func.functional_call(network, detached(network), (given,))
        loss = nn.functional.cross_entropy(logits, target, reduction="sum")
        g = torch.autograd.grad(loss, given)[0][..., :3]
    about = x[..., :3] - x[..., :3].median(1, keepdim=True).values
    r = about.norm(dim=-1)
    slope = (g * about).sum(-1) / r.clamp(min=torch.finfo(x.dtype).tiny)  # dL/dr
    return -slope * r**2


def zheng_iterative(network: nn.Module, x: Tensor, target: Tensor, seed: int) -> Tensor:
    """Half of the points in `ROUNDS` rounds, in the order in which they were dropped; then the others by one shot."""
    b, n = x.shape[:2]
    kept = torch.arange(n, device=x.device).expand(b, n)
    scores = torch.zeros(b, n, dtype=x.dtype, device=x.device)
    ends = sorted({n // 2 * i // ROUNDS for i in range(ROUNDS + 1)})
    for done, end in pairwise(ends):
        each = end - done
        found = zheng(network, _taken(x, kept), target, seed)
        order = found.argsort(descending=True, stable=True)
        gone, left = order[:, :each], order[:, each:].sort().values
        rank = torch.arange(done, end, device=x.device, dtype=x.dtype).expand(b, -1)
        scores.scatter_(1, kept.gather(1, gone), n - rank)
        kept = kept.gather(1, left)
    last = zheng(network, _taken(x, kept), target, seed).argsort(dim=1, stable=True).argsort(1).to(x.dtype)
    return scores.scatter(1, kept, last / n)


def random(network: nn.Module, x: Tensor, target: Tensor, seed: int) -> Tensor:
    """The same numbers for the same seed and shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(x.shape[:2], generator=generator, dtype=torch.float64).to(x)


SCORES: dict[str, Scorer] = {
    "radius": radius,
    "feature_norm": feature_norm,
    "critical_points": critical_points,
    "zheng": zheng,
    "zheng_iterative": zheng_iterative,
    "random": random,
}
CLASS_AGNOSTIC = ("radius", "feature_norm", "critical_points", "random")


def _taken(x: Tensor, rows: Tensor) -> Tensor:
    """Points [B, k] of x [B, N, C]."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))
