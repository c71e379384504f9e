"""Layers of other sizes in a network that was built with its usual ones.

A network with channels taken out is built by its own constructor, and then its matrices and BatchNorms get their sizes
here: nothing in a forward knows a width by heart. A third number is a rank: two thin maps take the matrix's place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models.layers.linear_norm import EdgeConv, LinearNorm
from dropfold.models.layers.low_rank import CONVOLUTIONS, LowRank, check_rank, low_rank

Sizes = Mapping[str, Sequence[int]]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def sizes_of(network: nn.Module) -> dict[str, list[int]]:
    """[channels out, channels in] of each matrix and convolution by its name, with the rank if it is two thin ones, and
    [channels] of each BatchNorm."""
    sizes = {name: found for name, module in network.named_modules() if (found := _size(module)) is not None}
    pairs = tuple(f"{name}." for name, size in sizes.items() if len(size) == 3)
    return {name: size for name, size in sizes.items() if not name.startswith(pairs)}


def resize(network: nn.Module, sizes: Sizes) -> nn.Module:
    """Give the layers that `sizes` names theirs, as `sizes_of` lists them, and return the network.

    What has another size than before gets fresh weights, on its device and in its type: initial ones, to train from or to
    load others over. They are torch's, or those of the network's `draw_weights(names and layers)`, if it has one.

    Raises:
        ValueError: a layer that is not there, or none whose size can be given; nothing is changed then.
    """
    modules, shared = dict(network.named_modules()), tied(network)
    edges = edge_matrices(network)
    for name, size in sizes.items():
        found = _size(modules[name]) if name in modules else None
        if found is None or not _fits(modules[name], found, list(size), name in edges):
            what = (
                "there is none"
                if name not in modules
                else f"it is a {type(modules[name]).__name__} of {found}"
            )
            raise ValueError(f"sizes has {name!r}: {list(size)}, and in {type(network).__name__} {what}.")
    _check_tied(network, shared, sizes)
    fresh = [(name, modules[name]) for name, size in sizes.items() if list(size) != _size(modules[name])]
    module: Any
    for name, module in fresh:
        if len(size := sizes[name]) == 3:
            network.set_submodule(name, low_rank(module, size[0], size[1], size[2], name in edges))
        else:
            _set_size(module, size)
    _tie(network, shared)
    for module in network.modules():
        if isinstance(module, LinearNorm):
            module.in_channels = _channels_in(module.linear)
        elif hasattr(module, "fit_sizes"):
            module.fit_sizes()
        if hasattr(module, "draw_weights"):
            module.draw_weights([part for part in fresh if len(sizes[part[0]]) < 3])
    return network


def tied(network: nn.Module) -> dict[str, str]:
    """Parameters that several layers of a network share: each of their names -> the first one."""
    first: dict[int, str] = {}
    names = [
        (f"{prefix}.{name}" if prefix else name, id(p))
        for prefix, module in network.named_modules()
        for name, p in module.named_parameters(recurse=False)
    ]
    for name, key in names:
        first.setdefault(key, name)
    several = {key for name, key in names if first[key] != name}
    return {name: first[key] for name, key in names if key in several}


def _check_tied(network: nn.Module, shared: Mapping[str, str], sizes: Sizes) -> None:
    """ValueError if a parameter of several layers would get several sizes."""

    def size(name: str) -> list[int] | None:
        owner = name.rpartition(".")[0]
        found = sizes.get(owner, _size(network.get_submodule(owner)))
        return found if found is None else list(found)[: network.get_parameter(name).dim()]

    for name, first in shared.items():
        if size(name) != size(first):
            raise ValueError(
                f"{first} and {name} are one parameter, and sizes give it both {size(first)} and {size(name)}."
            )


def _tie(network: nn.Module, shared: Mapping[str, str]) -> None:
    """Give parameters that were one and the same before, and have new sizes now, one parameter again."""
    for name, first in shared.items():
        owner, _, kind = name.rpartition(".")
        setattr(network.get_submodule(owner), kind, network.get_parameter(first))


def edge_matrices(network: nn.Module) -> set[str]:
    """The names of the matrices on [x_j - x_i ; x_i]."""
    return {
        f"{name}.linear".removeprefix(".")
        for name, module in network.named_modules()
        if isinstance(module, EdgeConv)
    }


def _size(module: nn.Module) -> list[int] | None:
    if isinstance(module, LowRank):
        return module.size
    if isinstance(module, nn.Linear):
        return [module.out_features, module.in_features]
    if isinstance(module, CONVOLUTIONS):
        return [module.out_channels, module.in_channels]
    return [module.num_features] if isinstance(module, NORMS) else None


def _fits(module: nn.Module, found: list[int], size: list[int], edges: bool) -> bool:
    """Whether a layer of one size can be given another."""
    if min(size) < 1:
        return False
    if len(size) == 3 and len(found) == 2:
        try:
            check_rank(module, size[0], size[1], size[2], edges)
        except ValueError:
            return False
        return True
    return size == found if len(found) == 3 else len(size) == len(found)


def _channels_in(linear: nn.Module) -> int:
    first = linear[0] if isinstance(linear, nn.Sequential) else linear
    return int(first.in_features)  # type: ignore[arg-type]


def _set_size(module: nn.Module, size: Sequence[int]) -> None:
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = size
        _empty(module, "weight", size)
        _empty(module, "bias", size[:1])
    elif isinstance(module, CONVOLUTIONS):
        if module.groups == module.in_channels == module.out_channels:  # depthwise
            module.groups = size[1]
        module.out_channels, module.in_channels = size
        _empty(module, "weight", (size[0], size[1] // module.groups, *module.kernel_size))
        _empty(module, "bias", size[:1])
    else:
        assert isinstance(module, NORMS)
        module.num_features = size[0]
        for name in ("weight", "bias", "running_mean", "running_var"):
            _empty(module, name, size)
    module.reset_parameters()


def _empty(module: nn.Module, name: str, size: Sequence[int]) -> None:
    """A parameter or buffer of another size, if there is one."""
    old = getattr(module, name)
    if old is None:
        return
    new: Tensor = torch.empty(math.prod(size), dtype=old.dtype, device=old.device).view(*size)
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(new, old.requires_grad))
    else:
        setattr(module, name, new)
