"""Layers whose matrix is held in 8 bits and whose input is rounded as it comes, for evaluation on the CPU.

A layer of float32 becomes one of these by `round_layer`; its BatchNorm, activation and pool stay as they are. Formulas and
limits are those of `dropfold.kernels.norm.rounded`. In the plain form (`dropfold.models.layers.unfused`) the same
numbers are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dropfold.kernels import BatchNorm, Groups, Noise, norm_act
from dropfold.kernels.norm import rounded
from dropfold.kernels.norm.rounded import Rounded, round_matrix
from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import (
    EdgeConv,
    LinearNorm,
    LinearNormAct,
    LinearNormMax,
    LinearNormPool,
    add_to_points,
)
from dropfold.models.layers.matrix import Affine


class Int8Linear(nn.Module):
    """`nn.Linear` with its matrix in 8 bits: x [..., in_features] of float32 to [..., out_features].

    Buffers: `integers` int8 [out, in], `scale` [out], `bias` [out] or None.
    """

    integers: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        matrix = round_matrix(linear.weight)
        self.register_buffer("integers", matrix.integers)
        self.register_buffer("scale", matrix.scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def matrix(self) -> Rounded:
        """The matrix."""
        return Rounded(self.integers, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return rounded.linear(x, self.matrix(), self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


def _parts(layer: LinearNorm) -> tuple[Rounded, Tensor | None]:
    linear = cast(Int8Linear, layer.linear)
    return linear.matrix(), linear.bias


class Int8NormAct(LinearNormAct):
    """LinearNormAct in 8 bits."""

    def operation(self, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        *g, norm = rest
        weight, bias = _parts(self)
        if not g:
            return rounded.linear_norm_act(x, weight, bias, norm, **options)
        ends = g[0].shape[-1], weight.integers.shape[1]
        of_cloud = rounded.linear(g[0], weight.columns(0, ends[0]), bias)
        y = add_to_points(rounded.linear(x, weight.columns(*ends)), of_cloud, options["batch"])
        return norm_act(y, norm, **options)

    def plain(self, x: Tensor, *g: Tensor, noise: Noise | None, **clouds: Any) -> Tensor:
        if not g:
            return super().plain(x, noise=noise, **clouds)
        norm = self.batch_norm()
        return self.operation(x, *g, norm, negative_slope=self.negative_slope, noise=noise, **clouds)


class Int8NormMax(LinearNormMax):
    """LinearNormMax in 8 bits."""

    def operation(self, x: Tensor, norm: BatchNorm, **options: Any) -> Tensor:
        return rounded.linear_norm_pool(x, *_parts(self), norm, mean=False, **options)[0]


class Int8NormPool(LinearNormPool):
    """LinearNormPool in 8 bits."""

    def operation(self, x: Tensor, norm: BatchNorm, **options: Any) -> tuple[Tensor, Tensor]:
        return rounded.linear_norm_pool(x, *_parts(self), norm, **options)


class Int8EdgeConv(EdgeConv):
    """EdgeConv in 8 bits: points are rounded, not their differences."""

    def operation(self, x: Tensor, idx: Tensor, norm: BatchNorm, **options: Any) -> Tensor:
        return rounded.edge_conv(x, idx, *_parts(self), norm, **options)

    def plain(self, x: Tensor, idx: Tensor, **options: Any) -> Tensor:
        return super().plain(rounded.round_rows(x), idx, **options)

    def _called(self, x: Tensor, channels: int | None = None) -> Tensor:
        weight, bias = _parts(self)
        return nn.functional.linear(x, weight.to_float(), bias)


class _Int8Perceptron:
    """All layers but the first, which sees coordinates, in 8 bits."""

    def _run(
        self, first: Affine, q: Tensor, p: Tensor, groups: Groups, noise: Noise | None, **options: Any
    ) -> Tensor:
        of = cast(GroupMLPMax, self)
        layers: Sequence[Any] = list(of.layers)
        matrices = [_parts(layer) for layer in layers[1:]]
        norms, biases = [layer.batch_norm() for layer in layers], [bias for _, bias in matrices]
        return rounded.group_mlp_max(
            *(q, p, groups, [weight for weight, _ in matrices], norms, [first.bias, *biases]),
            negative_slope=of.negative_slope,
            noise=noise,
            **options,
        )


class Int8GroupMLPMax(_Int8Perceptron, GroupMLPMax):
    """GroupMLPMax in 8 bits, but for its first layer."""


class Int8EdgeConv2(_Int8Perceptron, EdgeConv2):
    """EdgeConv2 in 8 bits, but for its first layer."""


LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    LinearNormAct: Int8NormAct,
    LinearNormMax: Int8NormMax,
    LinearNormPool: Int8NormPool,
    EdgeConv: Int8EdgeConv,
    GroupMLPMax: Int8GroupMLPMax,
    EdgeConv2: Int8EdgeConv2,
}


def round_layer(layer: nn.Module) -> None:
    """Make a layer of `LAYERS` the one in 8 bits, in place: of a perceptron on groups all layers but the first.

    Raises:
        ValueError: a weight is not finite.
    """
    for inner in list(layer.layers)[1:] if isinstance(layer, GroupMLPMax | EdgeConv2) else [layer]:
        assert isinstance(inner, LinearNorm)
        assert isinstance(inner.linear, nn.Linear)
        inner.linear = Int8Linear(inner.linear)
    layer.__class__ = LAYERS[type(layer)]


def bytes_of(network: nn.Module) -> int:
    """What the parameters and buffers take."""
    held: dict[int, torch.Tensor] = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(t.numel() * t.element_size() for t in held.values())
