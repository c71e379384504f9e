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
from dropfold.explain.cut.passes import as_it_was
from dropfold.explain.maps.captured import Captured, channel_drops
from dropfold.explain.maps.methods import METHODS, sensitivity_error
from dropfold.explain.maps.targets import choose
from dropfold.explain.score.saliency import pooled_features
from dropfold.explain.units.ablation import each_pooled_unit, pooled_layer


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

    Costs a pass above the layer for each of its channels; before the pool of PointNet, PointNet++ and DGCNN
    ("conv3.activation", "embed.activation") all of them are one.
    """
    given = Inputs.of(network, x, None)
    with as_it_was(network):
        seen = Captured(network, cut_of(network, layer, channels), given)
        _, weight = choose(seen.logits, target, None, given)
        s, gradients = seen.logit(weight)
        with torch.no_grad():
            if layer is not None and layer == before_pool(network):
                without = each_pooled_unit(network, pooled_features(network, given.x).values)
                drops = s[:, None] - torch.stack([given.add_up(one * weight) for one in without], -1)
            else:
                drops = channel_drops(seen.run, seen.leaves, s, weight)
    found = {}
    for name in METHODS:
        of_channels = seen.contributions(name, s, gradients, weight).flatten(1, -2)
        pairs = zip(of_channels.sum(1), drops, strict=True)
        found[name] = Axioms(
            (of_channels.sum((1, 2)) - s).abs() / s.abs(),
            sensitivity_error(of_channels, drops),
            torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]),
        )
    return found


def before_pool(network: nn.Module) -> str | None:
    """The name of the activations that the pooled layer takes the maximum of; None if no pooled layer is known."""
    try:
        name = pooled_layer(network)
    except ValueError:
        return None
    layers = getattr(network.get_submodule(name), "layers", None)
    return f"{name}.activation" if layers is None else f"{name}.layers.{len(layers) - 1}.activation"
