"""Plans of networks that say whose channels each matrix reads (`network.wiring()`, `dropfold.models.layers.wiring`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dropfold.compress.plan.plan import Group, Plan, Slices
from dropfold.models.layers.matrix import is_nn_linear
from dropfold.models.layers.wiring import Wiring


def plan_wired(model: nn.Module, wiring: Wiring) -> Plan:
    """A group for each layer that is read by another one.

    Raises:
        ValueError: the columns that the wiring names are not those of a matrix.
    """
    readers: dict[str, list[Slices]] = {}
    fixed: dict[str, str] = {}
    sizes = {layer: _width(model, layer) for layer in wiring.columns}
    for layer, sources in wiring.columns.items():
        tensor, width, start = _first(model, layer), _inputs(model, layer), 0
        for source in sources:
            size = source if isinstance(source, int) else sizes[source]
            if not isinstance(source, int):
                positions = torch.arange(start, start + size)[:, None]
                readers.setdefault(source, []).append(Slices(f"{tensor}.weight", 1, positions))
                if (why := _unplaced(model, tensor)) is not None:
                    fixed.setdefault(source, f"it is read by {layer}, {why}")
            start += size
        if start != width:
            raise ValueError(
                f"{layer} of {type(model).__name__} reads {width} channels, and its wiring names {start}."
            )
    for layer, of in wiring.squares.items():
        side = torch.arange(sizes[of])
        matrix = torch.arange(len(side) ** 2).view(len(side), len(side))
        positions = torch.stack([torch.cat([matrix[c], matrix[:, c]]) for c in side])
        readers[of] += [Slices(f"{layer}.{kind}", 0, positions) for kind in ("weight", "bias")]
    groups = []
    for layer in wiring.columns:
        if layer not in readers:
            fixed[layer] = f"its channels are the output of {type(model).__name__} or of a transform"
        elif (why := _unplaced(model, _last(model, layer))) is not None:
            fixed[layer] = why
        elif layer not in fixed:
            groups.append(Group(layer, (*_made(model, layer), *readers[layer])))
    return Plan(model, tuple(groups), fixed)


def _made(model: nn.Module, layer: str) -> list[Slices]:
    """Where the channels that `layer` makes are: rows of its matrix and numbers of its BatchNorm."""
    tensors, state = [f"{_last(model, layer)}.{kind}" for kind in ("weight", "bias")], model.state_dict()
    tensors += [f"{layer}.norm.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
    positions = torch.arange(_width(model, layer))[:, None]
    return [Slices(tensor, 0, positions) for tensor in tensors if tensor in state]


def _parts(model: nn.Module, layer: str) -> list[str]:
    """The names of the matrices of a layer, one after the other."""
    module = model.get_submodule(layer)
    name = f"{layer}.linear" if hasattr(module, "linear") else layer
    linear = model.get_submodule(name)
    return [f"{name}.{i}" for i in range(len(linear))] if isinstance(linear, nn.Sequential) else [name]


def _first(model: nn.Module, layer: str) -> str:
    return _parts(model, layer)[0]


def _last(model: nn.Module, layer: str) -> str:
    return _parts(model, layer)[-1]


def _width(model: nn.Module, layer: str) -> int:
    return _linear(model, _last(model, layer)).out_features


def _inputs(model: nn.Module, layer: str) -> int:
    return _linear(model, _first(model, layer)).in_features


def _linear(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name)


def _unplaced(model: nn.Module, name: str) -> str | None:
    """Why the channels of a matrix are no rows and columns that can be taken out; None if they are."""
    module = model.get_submodule(name)
    if is_nn_linear(module) and not hasattr(module, "parametrizations"):
        return None
    return f"whose matrix is a {type(module).__name__} and not rows and columns of its own"
