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

    A network says it itself (`operations()`, as DGCNN's EdgeConvs); of others it is their convolutions.
    """
    own: Any = _own(network)
    if own is not None:
        return dict(own.operations())
    found = {name: operation_of(module) for name, module in network.named_modules()}
    return {name: operation for name, operation in found.items() if operation is not None}


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
    own: Any = _own(network)
    if own is not None:
        own.replace_operations(operations)
        return network
    made: dict[str, nn.Module] = {
        name: make_operation(operation, network.get_submodule(name))  # type: ignore[arg-type]
        for name, operation in operations.items()
        if operation != known[name]
    }
    for name, module in made.items():
        module.train(network.get_submodule(name).training)
        network.set_submodule(name, module)
    fresh = [
        (f"{name}.{part}", inner) for name, layer in made.items() for part, inner in layer.named_modules()
    ]
    drawing: list[Any] = [module for module in network.modules() if hasattr(module, "draw_weights")]
    for module in drawing:
        module.draw_weights(fresh)
    return network


def _own(network: nn.Module) -> nn.Module | None:
    """The module that says itself what stands in the places of its layers: the network, or what it wraps as `network`."""
    for module in (network, getattr(network, "network", None)):
        if hasattr(module, "replace_operations"):
            return module
    return None
