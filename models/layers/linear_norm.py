"""Layers: a linear map and a BatchNorm, held as plain `nn.Linear` and `nn.BatchNorm1d`, run by the fused kernels.

Every layer takes dense clouds [B, N, C], or rows [M, C] with PyG's `batch` [M], and one draw of noise or None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels import BatchNorm, Noise, draw_seed
from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import COORDINATES
from dropfold.kernels.noise.draw.operation import as_p


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`kernels.linear` of features or of coordinates, which autocast must not round: bfloat16 has three digits."""
    features = x.shape[-1] > COORDINATES
    with torch.autocast(x.device.type, enabled=features and torch.is_autocast_enabled(x.device.type)):
        return kernels.linear(x, weight, bias)


class LinearNorm(nn.Module):
    """What the layers share: `linear`, `norm`, and the call of the kernel, `operation`, that each of them names."""

    operation: Callable[..., Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = False,
        negative_slope: float = 0.0,
        sync: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)
        self.norm = nn.BatchNorm1d(out_channels)
        self.negative_slope = negative_slope
        self.sync = sync

    def forward(
        self,
        *inputs: Tensor,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        noise: Noise | None = None,
    ) -> Any:
        options = {"batch": batch, "batch_size": batch_size, "noise": noise}
        return self.operation(*inputs, self._batch_norm(), negative_slope=self.negative_slope, **options)

    def _linear(self, x: Tensor) -> Tensor:
        return linear(x, self.linear.weight, self.linear.bias)

    def _batch_norm(self) -> BatchNorm:
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if norm.momentum is None:
            raise ValueError(
                "norm.momentum must be a number; the cumulative average (None) is not kept here."
            )
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
        return BatchNorm(
            *(norm.weight, norm.bias, norm.running_mean, norm.running_var),
            *(norm.training, norm.momentum, norm.eps, self.sync),
        )


class LinearNormAct(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> noise or dropout: x [..., C_in] to [..., C_out].

    With a second input g [B, C_g], the feature of a cloud stands beside each of its points: the weight acts on [g ; x],
    C_in is the width of both, and g is multiplied once a cloud and never repeated. Dropout is DropFeat, drawn in the same
    pass and not stored.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.dropout = nn.Dropout(dropout) if dropout else None

    def operation(self, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        *g, norm = rest
        y = self._beside(x, g[0], options["batch"]) if g else self._linear(x)
        if self.dropout is not None and self.dropout.training and self.dropout.p:
            if options["noise"] is not None:
                raise ValueError("a layer with dropout takes no noise: both would drop the same features.")
            options["noise"] = Noise("feat", as_p(self.dropout.p, y.device), draw_seed(y.device))
        return kernels.norm_act(y, norm, **options)

    def _beside(self, x: Tensor, g: Tensor, batch: Tensor | None) -> Tensor:
        of_cloud, of_point = self.linear.weight.split([g.shape[-1], x.shape[-1]], 1)
        return add_to_points(linear(x, of_point), kernels.linear(g, of_cloud, self.linear.bias), batch)


class LinearNormMax(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> max over the points that noise leaves: x [B, N, C_in] to [B, C_out]."""

    def operation(self, x: Tensor, norm: BatchNorm, **options: Any) -> Tensor:
        return kernels.linear_norm_max(x, self.linear.weight, self.linear.bias, norm, **options)


class LinearNormPool(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> max and mean over the points that noise leaves: to ([B, C_out], [B, C_out])."""

    def operation(self, x: Tensor, norm: BatchNorm, **options: Any) -> tuple[Tensor, Tensor]:
        return kernels.linear_norm_pool(x, self.linear.weight, self.linear.bias, norm, **options)


class EdgeConv(LinearNorm):
    """max over neighbours j of LeakyReLU(BatchNorm(W [x_j - x_i ; x_i])): x [B, N, C_in], idx [B, N, k] to [B, N, C_out].

    Wang et al. 2019, equation 8. `linear.weight` is [C_out, 2 C_in] on [x_j - x_i ; x_i].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = False,
        negative_slope: float = 0.2,
        sync: bool = False,
    ) -> None:
        super().__init__(2 * in_channels, out_channels, bias=bias, negative_slope=negative_slope, sync=sync)

    def operation(self, x: Tensor, idx: Tensor, norm: BatchNorm, **options: Any) -> Tensor:
        return kernels.edge_conv(x, idx, self.linear.weight, self.linear.bias, norm, **options)


def add_to_points(y: Tensor, g: Tensor, batch: Tensor | None) -> Tensor:
    """y [B, N, C] or rows [M, C], fresh from a product and changed in place, plus g [B, C] of each point's cloud."""
    return y.add_(g[batch] if batch is not None else g[:, None] if y.dim() == 3 else g)


def one_hot(category: Tensor | None, categories: int | None, like: Tensor) -> Tensor | None:
    """The category of each cloud [B] as a feature [B, categories]; None where a network takes no categories.

    Raises:
        ValueError: a category is missing, not asked for, or out of range.
    """
    if (category is None) != (categories is None):
        expected = (
            "takes no category" if categories is None else f"takes one of {categories} categories a cloud"
        )
        given = "none" if category is None else describe(category)
        raise ValueError(f"this network {expected}; got {given}.")
    if category is None or categories is None:
        return None
    if category.dim() != 1 or category.dtype != torch.int64:
        raise ValueError(f"category must be int64 [B], one number a cloud; got {describe(category)}.")
    if (
        category.is_cpu
        and category.numel()
        and not 0 <= int(category.min()) <= int(category.max()) < categories
    ):
        raise ValueError(
            f"category must be from 0 to {categories - 1}; got {int(category.min())} to {int(category.max())}."
        )
    return nn.functional.one_hot(category, categories).to(like.dtype)
