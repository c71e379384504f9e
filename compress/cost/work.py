"""How much work the matrices of a network do: multiply-adds.

A matrix [out, in] that is applied to some rows costs rows * out * in multiply-adds, a convolution as many for each element
of its window. The columns of one matrix may be applied to different numbers of rows, as where a cloud's feature stands
beside its points. In the form "own" each product is counted as often as the layers here do it (EdgeConv: for points, not for
edges), in the form "textbook" as the plain formulas do. Searches for neighbours and a T-Net's product with points are apart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropfold.models import unfused
from dropfold.models.clouds.pointnet2 import Interpolated
from dropfold.models.clouds.pointnet_segmentation import BesideAffine
from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import EdgeConv, LinearNorm, LinearNormAct
from dropfold.models.layers.low_rank import CONVOLUTIONS, Halves, LowRank
from dropfold.models.layers.sizes import edge_matrices

Form = Literal["own", "textbook"]


@dataclass(frozen=True)
class Work:
    """Of a matrix or convolution: rows [in], how often each column is multiplied for each output, windows included.

    Two thin maps of rank r in its place, down to r numbers and up from them, cost r (down_share sum of rows + up_rows out).
    """

    rows: Tensor
    out: int
    channelwise: bool = False  # a depthwise convolution: column c is of output c alone
    down_share: float = 1.0  # the part of the rows that the map down meets; 1/2 in an EdgeConv
    up_rows: int = 0  # the rows that the map up meets
    rank: int | None = None

    def macs(self) -> int:
        """Multiply-adds."""
        total = int(self.rows.sum())
        if self.rank is not None:
            return round(self.rank * (self.down_share * total + self.up_rows * self.out))
        return total if self.channelwise else total * self.out


def work_of(network: nn.Module, *example: Any, form: Form = "own", **options: Any) -> dict[str, Work]:
    """The work of each matrix and convolution, by its name, in one call of the network on an example, in evaluation.

    A warning names modules with matrices of their own that are not counted, as an LSTM's.
    """
    found: dict[str, Work] = {}
    if uncounted := _uncounted(network):
        names = ", ".join(
            f"{name or 'itself'} ({type(module).__name__})" for name, module in uncounted.items()
        )
        warnings.warn(f"the multiply-adds of {names} are not counted.", stacklevel=2)
    hooks = []

    def add(name: str, work: Work) -> None:
        if (before := found.get(name)) is not None:
            work = replace(work, rows=work.rows + before.rows, up_rows=work.up_rows + before.up_rows)
        found[name] = work

    def leaf(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, Halves):
                calls = inputs[0].numel() // module.weight.shape[1]
                add(name, Work(torch.full((module.weight.shape[1],), calls), len(module.weight)))
            elif isinstance(module, nn.Linear):
                calls = inputs[0].numel() // module.in_features
                rows, halves = torch.full((module.in_features,), calls), 2 if name in edges else 1
                add(name, Work(rows, module.out_features, up_rows=halves * calls))
            else:
                places = output.numel() // module.out_channels
                columns = module.in_channels // module.groups
                depthwise = columns == 1 and module.groups > 1
                rows = torch.full(
                    (module.out_channels if depthwise else columns,), module.weight[0, 0].numel() * places
                )
                add(name, Work(rows, module.out_channels, depthwise, up_rows=places))

        return hook

    def layer(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            for part, work in _works(name, module, inputs):
                add(part, work)

        return hook

    fused, edges = form == "own", edge_matrices(network)
    pairs = [
        f"{name}.linear."
        for name, module in network.named_modules()
        if fused and isinstance(module, LinearNorm) and isinstance(module.linear, LowRank)
    ]
    try:
        for name, module in network.named_modules():
            if name.startswith(tuple(pairs)):
                continue  # counted with their layer
            if isinstance(module, (nn.Linear, Halves, *CONVOLUTIONS)):
                hooks.append(module.register_forward_hook(leaf(name)))
            elif fused and isinstance(module, LinearNorm | GroupMLPMax | EdgeConv2):
                hooks.append(module.register_forward_pre_hook(layer(name), with_kwargs=True))
        training = {module: module.training for module in network.modules()}
        try:
            with torch.no_grad(), nullcontext() if fused else unfused(network):
                network.eval()(*example, **options)
        finally:
            for module, was in training.items():
                module.training = was
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _works(name: str, module: nn.Module, inputs: Sequence[Any]) -> list[tuple[str, Work]]:
    """The name and work of each product that a fused layer makes without calling its `linear`."""
    if isinstance(module, GroupMLPMax | EdgeConv2):
        return _works_of_groups(name, module, inputs)
    assert isinstance(module, LinearNorm)
    linear = module.linear
    if not isinstance(linear, nn.Linear | LowRank):
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
    rows = torch.cat([torch.full((x.shape[-1],), _rows(x)) for x in parts])
    calls, edges = max(map(_rows, parts)), isinstance(module, EdgeConv)
    if edges:  # x stands in both halves
        rows, calls = rows.repeat(2), 2 * calls
    # These multiply by the matrix, whatever it is made of.
    dense = isinstance(module, Interpolated) or (isinstance(module, BesideAffine) and len(inputs) > 2)
    rank = linear.rank if isinstance(linear, LowRank) and not dense else None
    share = 0.5 if edges else 1.0
    return [(f"{name}.linear", Work(rows, linear.out_features, down_share=share, up_rows=calls, rank=rank))]


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _works_of_groups(
    name: str, module: GroupMLPMax | EdgeConv2, inputs: Sequence[Any]
) -> list[tuple[str, Work]]:
    """The first matrix meets points and centres, the others the members of groups."""
    layers: Any = module.layers
    rows = torch.full(
        (layers[0].linear.in_features,), _rows(inputs[0 if isinstance(module, EdgeConv2) else 1])
    )
    if isinstance(module, GroupMLPMax):
        rows[:3] += len(inputs[2])
        entries = inputs[3].idx.numel()
    else:
        entries = inputs[1].numel()
    works = [Work(rows, layers[0].linear.out_features)]
    for layer in layers[1:]:
        works.append(Work(torch.full((layer.linear.in_features,), entries), layer.linear.out_features))
    return [(f"{name}.layers.{i}.linear", work) for i, work in enumerate(works)]


def multiply_adds(work: Mapping[str, Work]) -> int:
    """All of them together."""
    return sum(w.macs() for w in work.values())


def parameters_of(network: nn.Module) -> dict[str, Work]:
    """The numbers of each matrix and convolution, as work that is done once: for costs counted in parameters."""
    edges, found = edge_matrices(network), {}
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            weight, halves = module.weight, 2 if name in edges else 1
            depthwise = weight.shape[1] == 1 and getattr(module, "groups", 1) > 1
            rows = torch.full((weight.shape[0 if depthwise else 1],), math.prod(weight.shape[2:]))
            found[name] = Work(rows, weight.shape[0], depthwise, down_share=1 / halves, up_rows=halves)
    return found


def _uncounted(network: nn.Module) -> dict[str, nn.Module]:
    """The modules with matrices of their own that are no matrix or convolution known here."""
    known = (nn.Linear, Halves, *CONVOLUTIONS, nn.Embedding, nn.EmbeddingBag)
    return {
        name: module
        for name, module in network.named_modules()
        if not isinstance(module, known)
        and any(t.dim() > 1 for t in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    }
