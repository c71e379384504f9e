"""Fu et al.'s two axioms of class activation maps, as numbers: what a map adds up to, and what it gives each channel.

    conservation   |sum_x map(x) - S| / |S|. What is missing from a map whose sum is the evidence is the bias of the layers
                   above, and nothing else.
    sensitivity    sum_k |drop_k - c_k| / sum_k |drop_k|, with drop_k the exact fall of the logit S without channel k, and
                   c_k what the map gives the channel, sum_x of its contributions.
    correlation    Pearson's r of c_k and drop_k over the channels, which does not know a scale.

XGrad-CAM and gradient x activation have equal c_k, and so the same three numbers: they differ in where the evidence lands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dropfold.explain.cut.cuts import cut_of
from dropfold.explain.cut.inputs import Inputs
from dropfold.explain.cut.passes import EVIDENCE, Pass, as_it_was
from dropfold.explain.maps.maps import channel_drops, score
from dropfold.explain.maps.methods import METHODS, sensitivity_error
from dropfold.explain.maps.targets import choose


@dataclass(frozen=True)
class Axioms:
    """Of one method, a number a sample each."""

    conservation: Tensor
    sensitivity: Tensor
    correlation: Tensor


def axioms(
    network: nn.Module,
    x: Tensor,
    target: int | Tensor | None = None,
    *,
    layer: str | None = None,
    channels: int | None = None,
) -> dict[str, Axioms]:
    """The axioms of each method (XGrad-CAM, Grad-CAM, gradient x activation) at a layer; arguments as `explain`.

    Costs a pass above the layer for each of its channels.
    """
    given = Inputs.of(network, x, None)
    cut = cut_of(network, layer, channels)
    with as_it_was(network):
        run = Pass(network, cut, given)
        leaves, logits = run.capture()
        _, weight = choose(logits.detach(), target, None, given)
        s = given.add_up(logits * weight)
        (g,) = torch.autograd.grad(s.sum(), leaves[EVIDENCE])
        leaves, logit = {term: leaf.detach() for term, leaf in leaves.items()}, s.detach()
        with torch.no_grad():
            drops = channel_drops(run, leaves, logit, weight)
        f, g = (cut.arrange(value, given) for value in (leaves[EVIDENCE], g))
    found = {}
    for name in METHODS:
        of_channels = score(name, f, g, given).reshape(len(f), -1, f.shape[-1])
        found[name] = Axioms(
            (of_channels.sum((1, 2)) - logit).abs() / logit.abs(),
            sensitivity_error(of_channels, drops),
            torch.stack(
                [
                    torch.corrcoef(torch.stack(pair))[0, 1]
                    for pair in zip(of_channels.sum(1), drops, strict=True)
                ]
            ),
        )
    return found
