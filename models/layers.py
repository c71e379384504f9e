"""Layers: a linear map and a BatchNorm, held as plain `nn.Linear` and `nn.BatchNorm1d`, run by the fused kernels.

Every layer takes dense clouds [B, N, C], or rows [M, C] with PyG's `batch` [M], and one draw of noise or None.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import kernels
from kernels import Noise


class LinearNorm(nn.Module):
    """What the layers below share: `linear`, `norm`, and the arguments that the kernels take from them."""

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

    def _norm(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        norm = self.norm
        if self.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return norm.weight, norm.bias, norm.running_mean, norm.running_var

    def _options(self, batch: Tensor | None, batch_size: int | None, noise: Noise | None) -> dict[str, Any]:
        return {
            "batch": batch,
            "batch_size": batch_size,
            "training": self.training,
            "momentum": self.norm.momentum,
            "eps": self.norm.eps,
            "negative_slope": self.negative_slope,
            "noise": noise,
            "sync": self.sync,
        }


class LinearNormAct(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> noise: [..., C_in] to [..., C_out]."""

    def forward(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        return kernels.norm_act(self.linear(x), *self._norm(), **self._options(batch, batch_size, noise))


class LinearNormMax(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> max over the points that noise leaves: [B, N, C_in] to [B, C_out]."""

    def forward(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        return kernels.linear_norm_max(
            x, self.linear.weight, self.linear.bias, *self._norm(), **self._options(batch, batch_size, noise)
        )


class LinearNormPool(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> max and mean over the points that noise leaves: to ([B, C_out], [B, C_out])."""

    def forward(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        noise: Noise | None = None,
    ) -> tuple[Tensor, Tensor]:
        return kernels.norm_pool(self.linear(x), *self._norm(), **self._options(batch, batch_size, noise))


class EdgeConv(LinearNorm):
    """max over neighbours j of LeakyReLU(BatchNorm(W [x_j - x_i ; x_i])): [B, N, C_in] and idx [B, N, k] to [B, N, C_out].

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

    def forward(
        self,
        x: Tensor,
        idx: Tensor,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        return kernels.edge_conv(
            x,
            idx,
            self.linear.weight,
            self.linear.bias,
            *self._norm(),
            **self._options(batch, batch_size, noise),
        )
