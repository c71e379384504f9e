"""How much work the matrices of a network do: multiply-adds, as a function of which channels are kept.

A matrix [out, in] that is applied to some rows costs rows * out * in multiply-adds, a convolution as many for each element
of its window. The columns of one matrix may be applied to different numbers of rows, as where a cloud's feature stands
beside its points. In the form "own" each product is counted as often as the layers here do it (EdgeConv: for points, not for
edges), in the form "textbook" as the plain formulas do. What is left after pruning is exact but in PointNet for parts,
where the rows of one product are the channels of another. Searches for neighbours and a T-Net's product with points are
apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropfold.compress.plan.plan import Plan, removed
from dropfold.models import unfused
from dropfold.models.clouds.pointnet2 import Interpolated
from dropfold.models.clouds.pointnet_segmentation import BesideAffine
from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import EdgeConv, LinearNorm, LinearNormAct
from dropfold.models.layers.sizes import CONVOLUTIONS

Form = Literal["own", "textbook"]


@dataclass(frozen=True)
class Work:
    """Of a matrix or convolution: rows [in], how often each column is multiplied for each output, windows included."""

    rows: Tensor
    out: int
    channelwise: bool = False  # a depthwise convolution: column c is of output c alone


def work_of(network: nn.Module, *example: Any, form: Form = "own", **options: Any) -> dict[str, Work]:
    """The work of each matrix and convolution, by its name, in one call of the network on an example, in evaluation."""
    found: dict[str, Work] = {}
    hooks = []

    def add(name: str, module: nn.Module, rows: Tensor | int) -> None:
        linear: Any = module
        if isinstance(rows, int):
            rows = torch.full((linear.in_features,), rows)
        before = found[name].rows if name in found else 0
        found[name] = Work(rows + before, linear.out_features)

    def leaf(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Linear):
                add(name, module, inputs[0].numel() // module.in_features)
                return
            window = module.weight[0, 0].numel() * (output.numel() // module.out_channels)
            columns = module.in_channels // module.groups
            depthwise = columns == 1 and module.groups > 1
            rows = torch.full((module.out_channels if depthwise else columns,), window)
            found[name] = Work(rows, module.out_channels, depthwise)

        return hook

    def layer(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            for part, matrix, rows in _rows(name, module, inputs):
                add(part, matrix, rows)

        return hook

    try:
        for name, module in network.named_modules():
            if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
                hooks.append(module.register_forward_hook(leaf(name)))
            elif form == "own" and isinstance(module, LinearNorm | GroupMLPMax | EdgeConv2):
                hooks.append(module.register_forward_pre_hook(layer(name), with_kwargs=True))
        training = {module: module.training for module in network.modules()}
        try:
            with torch.no_grad(), nullcontext() if form == "own" else unfused(network):
                network.eval()(*example, **options)
        finally:
            for module, was in training.items():
                module.training = was
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rows(name: str, module: nn.Module, inputs: Sequence[Any]) -> list[tuple[str, nn.Module, Tensor | int]]:
    """The name, matrix and rows of each product that a fused layer makes without calling its `linear`."""
    if isinstance(module, GroupMLPMax | EdgeConv2):
        return _rows_of_groups(name, module, inputs)
    assert isinstance(module, LinearNorm)
    linear = module.linear
    if not isinstance(linear, nn.Linear):
        return []
    if isinstance(module, Interpolated):
        points, below, g = inputs
        parts = [x for x in (g, points.features, below.features) if x is not None]
    elif (
        isinstance(module, BesideAffine) and len(inputs) > 2
    ):  # the last columns meet a matrix, and no points
        parts = [inputs[1], inputs[0], inputs[2].T]
    elif isinstance(module, LinearNormAct):
        parts = [*inputs[1:], inputs[0]]
    else:
        parts = [inputs[0]]
    rows = torch.cat([torch.full((x.shape[-1],), x.numel() // x.shape[-1]) for x in parts])
    if isinstance(module, EdgeConv):  # x stands in both halves
        rows = rows.repeat(2)
    return [(f"{name}.linear", linear, rows)]


def _rows_of_groups(
    name: str, module: GroupMLPMax | EdgeConv2, inputs: Sequence[Any]
) -> list[tuple[str, nn.Module, Tensor | int]]:
    """The first matrix meets points and centres, the others the members of groups."""
    layers: Any = module.layers
    points = inputs[0 if isinstance(module, EdgeConv2) else 1]
    rows = torch.full((layers[0].linear.in_features,), points.numel() // points.shape[-1])
    if isinstance(module, GroupMLPMax):
        rows[:3] += len(inputs[2])
        entries = inputs[3].idx.numel()
    else:
        entries = inputs[1].numel()
    others = [(f"{name}.layers.{i}.linear", layer.linear, entries) for i, layer in enumerate(layers) if i]
    return [(f"{name}.layers.0.linear", layers[0].linear, rows), *others]


def multiply_adds(work: Mapping[str, Work]) -> int:
    """All of them together."""
    return sum(_cost(w, w.out, w.rows) for w in work.values())


def _cost(work: Work, out: int, rows: Tensor) -> int:
    return int(rows.sum()) * (1 if work.channelwise else out)


def kept_work(plan: Plan, work: Mapping[str, Work], channels: Mapping[str, Sequence[int]]) -> int:
    """The multiply-adds that are left if only these channels of the plan's groups stay."""
    out = {name: w.out for name, w in work.items()}
    stays = {name: torch.ones(len(w.rows), dtype=torch.bool) for name, w in work.items()}
    for name, kept in channels.items():
        for tensor, axis, positions in removed(plan[name], kept):
            matrix, _, kind = tensor.rpartition(".")
            if kind != "weight" or matrix not in work:
                continue
            if axis == 0:
                out[matrix] -= len(positions)
            if axis == 1 or work[matrix].channelwise:
                stays[matrix][positions] = False
    return sum(_cost(w, out[name], w.rows[stays[name]]) for name, w in work.items())


def kept_parameters(plan: Plan, channels: Mapping[str, Sequence[int]]) -> int:
    """The parameters that are left."""
    sizes = {name: list(p.shape) for name, p in plan.model.named_parameters()}
    for name, kept in channels.items():
        for tensor, axis, positions in removed(plan[name], kept):
            if tensor in sizes:
                sizes[tensor][axis] -= len(positions)
    return sum(torch.Size(size).numel() for size in sizes.values())
