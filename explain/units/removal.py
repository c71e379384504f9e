"""Many units removed at once, least important first, and the smaller network that is left.

A unit that is replaced by a constant r adds W[:, u] r to the next layer's input: its bias. So the network without it is a
smaller network, with no fine-tuning. Units are ranked on training data and scored on test data.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.explain.cut.passes import as_it_was
from dropfold.explain.units.ablation import Units, head, pooled_layer

FRACTIONS = (0.5, 0.75, 0.9, 0.95, 0.98)


@torch.no_grad()
def cumulative_accuracy(
    network: nn.Module,
    values: Units,
    label: Tensor,
    order: Tensor,
    replacement: tuple[Tensor, ...],
    fractions: Sequence[float] = FRACTIONS,
) -> list[float]:
    """Accuracy on samples of pooled `values` and classes `label` with the first units of `order` [U] replaced."""
    found, order = [], order.to(values.parts[0].device)
    with as_it_was(network):
        for fraction in fractions:
            gone = torch.zeros(values.count, dtype=torch.bool, device=order.device)
            gone[order[: round(fraction * values.count)]] = True
            parts = tuple(
                torch.where(gone, r.to(p), p) for p, r in zip(values.parts, replacement, strict=True)
            )
            found.append(float((head(network, Units(parts)).argmax(1) == label).double().mean()))
    return found


@torch.no_grad()
def smaller_network(network: nn.Module, gone: Tensor, replacement: tuple[Tensor, ...]) -> nn.Module:
    """A copy of a PointNet, PointNet++ or DGCNN without the pooled units `gone` (bool [U]), whose replacement is folded
    into the bias of fc1. In evaluation its logits are those of the ablated network.

    Raises:
        ValueError: no unit would be left, or `gone` is not bool [U].
    """
    small: Any = copy.deepcopy(network)
    pooled = small.get_submodule(pooled_layer(network))
    last = pooled.layers[-1] if hasattr(pooled, "layers") else pooled
    units, kept = last.norm.num_features, ~gone
    if gone.dtype != torch.bool or gone.shape != (units,) or not bool(kept.any()):
        raise ValueError(
            f"gone must be bool [{units}] and leave a unit; got {gone.dtype} {list(gone.shape)}."
        )
    weight, bias = last.matrix()
    last.linear = linear_of(weight[kept], None if bias is None else bias[kept])
    norm = (
        nn.BatchNorm1d(int(kept.sum()), last.norm.eps, last.norm.momentum)
        .to(weight)
        .train(last.norm.training)
    )
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).data.copy_(getattr(last.norm, name)[kept])
    last.norm = norm
    weight, bias = small.fc1.matrix()
    columns = weight.unflatten(1, (len(replacement), units))
    folded = sum(columns[:, i, gone] @ r[gone].to(weight) for i, r in enumerate(replacement))
    small.fc1.linear = linear_of(columns[:, :, kept].flatten(1), folded if bias is None else bias + folded)
    small.fc1.in_channels = small.fc1.linear.in_features
    return small


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear with these values."""
    layer = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer
