"""Networks with other operations than their usual ones, layer by layer, as a config's `operations` names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dropfold.models.operations.convolutions import make_operation, operation_of
from dropfold.models.operations.names import unknown

Operations = Mapping[str, str]


def operations_of(network: nn.Module) -> dict[str, str]:
    """The operation of each layer that others can stand in for, in the network's order.

    A network says it itself (`operations()`, as DGCNN's EdgeConvs); of others it is their convolutions, but for those that
    several layers share, and those with hooks.
    """
    own: Any = _own(network)
    if own is not None:
        return dict(own.operations())
    names: dict[int, int] = {}
    for _, module in network.named_modules(remove_duplicate=False):
        names[id(module)] = names.get(id(module), 0) + 1
    return {
        name: operation
        for name, module in network.named_modules()
        if (operation := operation_of(module)) is not None
        and names[id(module)] == 1
        and not _has_hooks(module)
    }


def replace_operations(network: nn.Module, operations: Operations) -> nn.Module:
    """Give the layers that `operations` names theirs, and return the network.

    What has another form than before gets fresh weights: torch's initial ones, or those of the network's `draw_weights`.

    Raises:
        ValueError: no such layer, or no such operation; the nearest names. Nothing is changed then.
    """
    known = operations_of(network)
    for name in operations:
        if name not in known:
            raise ValueError(f"operations: {unknown('layer', name, known)}")
    before = set(network.modules())
    own: Any = _own(network)
    if own is not None:
        own.replace_operations(operations)
    else:
        made: dict[str, nn.Module] = {
            name: make_operation(operation, network.get_submodule(name))  # type: ignore[arg-type]
            for name, operation in operations.items()
            if operation != known[name]
        }
        for name, module in made.items():
            module.train(network.get_submodule(name).training)
            network.set_submodule(name, module)
    fresh = [(name, module) for name, module in network.named_modules() if module not in before]
    drawing: list[Any] = [module for module in network.modules() if hasattr(module, "draw_weights")]
    for module in drawing:
        module.draw_weights(fresh)
    return network


def _has_hooks(module: nn.Module) -> bool:
    """Whether a module does more than its class says, as with torch's old spectral_norm."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _own(network: nn.Module) -> nn.Module | None:
    """The module that says itself what stands in the places of its layers: the network, or what it wraps as `network`."""
    for module in (network, getattr(network, "network", None)):
        if hasattr(module, "replace_operations"):
            return module
    return None
