"""Layers: a linear map and a BatchNorm, held as plain `nn.Linear` and `nn.BatchNorm1d`, run by the fused kernels.

Every layer takes dense clouds [B, N, C], or rows [M, C] with PyG's `batch` [M], and one draw of noise or None.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import kernels
from kernels import BatchNorm, Noise


class LinearNorm(nn.Module):
    """What the layers share: `linear`, `norm`, and the call of the kernel, `operation`, that each of them names."""

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

    def operation(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    def _linear(self, x: Tensor) -> Tensor:
        return kernels.linear(x, self.linear.weight, self.linear.bias)

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
    """linear -> BatchNorm -> LeakyReLU -> noise: x [..., C_in] to [..., C_out]."""

    def operation(self, x: Tensor, norm: BatchNorm, **options: Any) -> Tensor:
        return kernels.norm_act(self._linear(x), norm, **options)


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
