"""A forward of a network at a cut, of which the maps of several logits by several methods are read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropfold.explain.cut.cuts import EVIDENCE, Cut, Leaves
from dropfold.explain.cut.inputs import Inputs
from dropfold.explain.cut.passes import Pass
from dropfold.explain.cut.positions import Winners
from dropfold.explain.maps.methods import METHODS, ablation


class Captured:
    """The tensors at the cut (`leaves`) and the logits, as constants; the gradients of any logit are asked of them."""

    def __init__(self, network: nn.Module, cut: Cut, given: Inputs) -> None:
        self.run, self.cut, self.given = Pass(network, cut, given), cut, given
        with Winners(network, cut.levels) as self.winners:
            self._leaves, self._logits = self.run.capture()
        self.leaves: Leaves = {term: leaf.detach() for term, leaf in self._leaves.items()}
        self.logits = self._logits.detach()

    @property
    def features(self) -> Tensor:
        """F: [B, *positions, C], or rows [M, C]."""
        return self.cut.arrange(self.leaves[EVIDENCE], self.given)

    def logit(self, weight: Tensor) -> tuple[Tensor, Leaves]:
        """`(S [B], dS/d leaf)` of S, the sum of weight * logits over each sample."""
        s = self.given.add_up(self._logits * weight)
        pulled = torch.autograd.grad(
            s.sum(), list(self._leaves.values()), allow_unused=True, retain_graph=True
        )
        gradients = {
            term: torch.zeros_like(leaf) if g is None else g
            for (term, leaf), g in zip(self.leaves.items(), pulled, strict=True)
        }
        return s.detach(), gradients

    def contributions(self, method: str, s: Tensor, gradients: Leaves, weight: Tensor) -> Tensor:
        """What each channel adds to S by a method, in the shape of F."""
        if method == "ablation":
            return score(method, self.features, channel_drops(self.run, self.leaves, s, weight), self.given)
        return score(method, self.features, self.cut.arrange(gradients[EVIDENCE], self.given), self.given)

    def scores(self, method: str, s: Tensor, gradients: Leaves, weight: Tensor) -> Tensor:
        """The map: the sum of contributions over channels, of centres carried to points."""
        found = self.contributions(method, s, gradients, weight)
        return self.winners.carry(found, self.given).detach()


def score(method: str, f: Tensor, g: Tensor, inputs: Inputs) -> Tensor:
    """The contributions of a method, in the shape of F: [B, *positions, C] or rows [M, C]."""
    function = ablation if method == "ablation" else METHODS[method]
    if inputs.batch is not None and len(f) == len(inputs.batch) and f.dim() == 2:
        parts = zip(inputs.per_sample(f), inputs.per_sample(g) if method != "ablation" else g)
        return torch.cat([function(*part) for part in parts])
    flat = f.reshape(len(f), -1, f.shape[-1])
    return function(flat, g if method == "ablation" else g.reshape(flat.shape)).view(f.shape)


def channel_drops(run: Pass, leaves: Leaves, logit: Tensor, weight: Tensor) -> Tensor:
    """By how much the logit of each sample falls when a channel of the features is 0 everywhere: exact, [B, C]."""
    f = leaves[EVIDENCE]
    if run.cut.arrange(f, run.inputs).shape[-1] != f.shape[run.cut.channels]:
        raise ValueError("ablation is of channels, and the frames of a video have none beside their pixels.")
    drops = [
        logit - run.inputs.add_up(one * weight) for some in run.without_each_channel(leaves) for one in some
    ]
    return torch.stack(drops, -1)
