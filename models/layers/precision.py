"""Inference in fewer bits, on request: `lower_precision(network, "int8")`, `lower_precision(network, "bf16")`.

int8: the matrices of the fused layers and `nn.Linear` are held in 8 bits with a scale an output channel; the rows that
they multiply are rounded to 8 bits, each with a scale of its own, as they come; sums are exact
(`dropfold.kernels.norm.rounded`). On the CPU, for networks on point clouds.

bf16: the network under `torch.autocast`, as it is trained with `--amp bf16`: products in bfloat16, weights held in
float32. Any network, on any device.

Coordinates are rounded in neither: layers that read them, T-Nets' matrices that move them, and all searches stay in float32.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from torch import nn

from dropfold.kernels.backend.gemm import COORDINATES
from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import LinearNorm
from dropfold.models.layers.matrix import is_nn_linear
from dropfold.models.layers.rounded import LAYERS, Int8Linear, bytes_of, round_layer

Precision = Literal["int8", "bf16"]


class LowPrecision(nn.Module):
    """A network for inference in fewer bits; it takes and returns what `network` does.

    Attributes:
        network: the copy that computes.
        precision: "int8" or "bf16".
        left: of int8, why a layer is left in float32, by its name.
        bytes_before: what the parameters and buffers of the given network take.
    """

    def __init__(
        self, network: nn.Module, precision: Precision, left: dict[str, str], bytes_before: int
    ) -> None:
        super().__init__()
        self.network, self.precision, self.left = network, precision, left
        self.bytes_before = bytes_before
        super().train(False)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if self.precision == "int8":
            return self.network(*inputs, **options)
        with torch.autocast(next(self.network.parameters()).device.type, torch.bfloat16):
            return self.network(*inputs, **options)

    def train(self, mode: bool = True) -> LowPrecision:
        """Refuse training mode."""
        if mode:
            raise ValueError(
                f"a network in {self.precision} is for inference; train the one that it was made of, and lower its "
                "precision anew."
            )
        return super().train(False)

    def describe(self) -> str:
        """What was lowered and what was left, in a sentence."""
        if self.precision == "bf16":
            return "bf16: products in bfloat16 (autocast); coordinates, searches and BatchNorm in float32."
        rounded = sum(isinstance(module, Int8Linear) for module in self.network.modules())
        reasons: dict[str, list[str]] = {}
        for name, why in self.left.items():
            reasons.setdefault(why, []).append(name)
        left = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        return (
            f"int8: {rounded} matrices in 8 bits, {bytes_of(self.network):,} bytes instead of {self.bytes_before:,}; "
            f"BatchNorm, pools and searches in float32, and the matrices of {left or 'no layer'}."
        )


def lower_precision(network: nn.Module, precision: Precision) -> LowPrecision:
    """A copy of a network in evaluation mode that computes in fewer bits; the network itself is not changed.

    Raises:
        ValueError: another precision; a network in training mode, or one whose precision is lowered already; for int8 also
            one that is not in float32 on the CPU, has weights that are not finite, or matrices of other layers than those
            of the networks on point clouds.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}.")
    if any(isinstance(module, LowPrecision | Int8Linear) for module in network.modules()):
        raise ValueError(
            f"the precision of this {type(network).__name__} is lowered already; give the network that it was made of."
        )
    if any(module.training for module in network.modules()):
        raise ValueError(
            f"{precision} is for inference, and {type(network).__name__} is in training mode; call network.eval()."
        )
    copy = deepcopy(network).requires_grad_(False)
    left = _round_layers(copy) if precision == "int8" else {}
    return LowPrecision(copy, precision, left, bytes_of(network))


def _round_layers(network: nn.Module) -> dict[str, str]:
    """Round the layers of a network in place; the others with matrices, and why they are left."""
    for name, weight in network.named_parameters():
        if weight.dtype != torch.float32 or not weight.is_cpu:
            raise ValueError(
                f"int8 is made of a network in float32 on the CPU; {name} is {weight.dtype} on {weight.device}. Give "
                "network.float().cpu()."
            )
    kinds = LinearNorm | GroupMLPMax | EdgeConv2
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    inside = {id(inner) for _, layer in layers for inner in layer.modules() if inner is not layer}
    layers = [(name, layer) for name, layer in layers if id(layer) not in inside]
    alone = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside
    ]
    _refuse_other_matrices(network, [module for _, module in (*layers, *alone)])
    left: dict[str, str] = {}
    for name, layer in (*layers, *alone):
        parent, _, own = name.rpartition(".")
        exact: dict[str, str] = getattr(network.get_submodule(parent), "in_full_precision", {})
        why = exact.get(own) or _why_left(layer)
        if why:
            left[name] = why
            continue
        if isinstance(layer, GroupMLPMax | EdgeConv2):
            left[f"{name}.layers.0"] = "it reads coordinates, or points before they are grouped"
        try:
            if isinstance(layer, nn.Linear):
                network.set_submodule(name, Int8Linear(layer))
            else:
                round_layer(layer)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return left


def _why_left(layer: nn.Module) -> str:
    """Why a layer stays in float32; empty if it does not."""
    if isinstance(layer, nn.Linear):
        return "" if type(layer) is nn.Linear and is_nn_linear(layer) else "it is no plain nn.Linear"
    if type(layer) not in LAYERS:
        return "its matrix is applied in parts"
    inner: list[Any] = [layer]
    if isinstance(layer, GroupMLPMax | EdgeConv2):
        inner = list(layer.layers)[1:]
        if not inner:
            return "it reads coordinates"
    elif layer.coordinates or layer.in_channels <= COORDINATES:  # type: ignore[operator]
        return "it reads coordinates"
    plain = all(type(one.linear) is nn.Linear and is_nn_linear(one.linear) for one in inner)
    return "" if plain else "its linear map is no plain nn.Linear"


def _refuse_other_matrices(network: nn.Module, known: list[nn.Module]) -> None:
    """Refuse a network with matrices, or more, of other layers: to round the rest alone would be no int8."""
    covered = {id(weight) for layer in known for weight in layer.parameters()}
    for name, weight in network.named_parameters():
        if weight.dim() > 1 and id(weight) not in covered:
            owner = network.get_submodule(name.rpartition(".")[0])
            raise ValueError(
                f"int8 is for networks on point clouds, whose matrices are those of fused layers and nn.Linear; "
                f"{type(network).__name__} has {name} of {type(owner).__name__}, which is not computed in 8 bits. bf16 "
                "takes it."
            )
    if not known:
        raise ValueError(f"{type(network).__name__} has no matrix that int8 could hold.")
