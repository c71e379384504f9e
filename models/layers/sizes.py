"""Layers of other sizes in a network that was built with its usual ones.

A network with channels taken out is built by its own constructor, and then its matrices and BatchNorms get their sizes
here: nothing in a forward knows a width by heart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dropfold.models.layers.linear_norm import LinearNorm

Sizes = Mapping[str, Sequence[int]]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def sizes_of(network: nn.Module) -> dict[str, list[int]]:
    """[channels out, channels in] of each matrix and convolution by its name, [channels] of each BatchNorm."""
    return {name: found for name, module in network.named_modules() if (found := _size(module)) is not None}


def resize(network: nn.Module, sizes: Sizes) -> nn.Module:
    """Give the layers that `sizes` names theirs, as `sizes_of` lists them, and return the network.

    What has another size than before gets fresh weights, on its device and in its type: initial ones, to train from or to
    load others over. They are torch's, or those of the network's `draw_weights(names and layers)`, if it has one.

    Raises:
        ValueError: a layer that is not there, or none whose size can be given; nothing is changed then.
    """
    modules = dict(network.named_modules())
    for name, size in sizes.items():
        found = _size(modules[name]) if name in modules else None
        if found is None or len(found) != len(size) or min(size) < 1:
            what = (
                "there is none"
                if name not in modules
                else f"it is a {type(modules[name]).__name__} of {found}"
            )
            raise ValueError(f"sizes has {name!r}: {list(size)}, and in {type(network).__name__} {what}.")
    fresh = [(name, modules[name]) for name, size in sizes.items() if list(size) != _size(modules[name])]
    for name, module in fresh:
        _set_size(module, sizes[name])
    for module in modules.values():
        if isinstance(module, LinearNorm):
            module.in_channels = _channels_in(module.linear)
        elif hasattr(module, "fit_sizes"):
            module.fit_sizes()
        if hasattr(module, "draw_weights"):
            module.draw_weights(fresh)
    return network


def _size(module: nn.Module) -> list[int] | None:
    if isinstance(module, nn.Linear):
        return [module.out_features, module.in_features]
    if isinstance(module, CONVOLUTIONS):
        return [module.out_channels, module.in_channels]
    return [module.num_features] if isinstance(module, NORMS) else None


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
