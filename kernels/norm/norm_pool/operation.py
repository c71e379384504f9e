r"""BatchNorm, activation, noise, then max and mean over each cloud's points; the activations are not stored.

    z = gamma * (y - mean) / sqrt(var + eps) + beta,   a(z) = z for z > 0, negative_slope * z otherwise
    max_bc  = max over the kept points m of cloud b of a(z_mc)
    mean_bc = mean over the same points

Statistics are those of all points. Noise excludes points (or, DropFeat, elements) from both pools: a zero would win
the max over LeakyReLU's negative values. What is left is not scaled: neither pool's size depends on how many are kept. Where
nothing is kept both pools are 0 and so is their gradient. Of equal maxima the first point has the gradient.
NaN wins the max (the Triton kernel turns it into +inf).

Forward reads y twice, backward reads it once: the sums that BatchNorm's gradient needs follow, for each cloud, from
sum a'(z) and sum a'(z) y_hat over the kept points, which forward takes in its own pass.

Source: the 1,024-wide layer of DGCNN (Wang et al. 2019, figure 3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import mm, product_dtype
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw.operation import Noise, draw
from dropfold.kernels.noise.elementwise.operation import NOISE
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    affine,
    check_channels,
    fold_bias,
    norm_gradients,
    statistics,
)
from dropfold.kernels.norm.norm_pool.outputs import _fake_pool
from dropfold.kernels.points.clouds import ptr_to_batch, to_rows

TILE = 1024  # rows whose gradient is made at a time on the CPU: [1024, 1024] float32 stays in the cache


def _fake_unpool(
    y: Tensor, batch: Tensor, vectors: Tensor, dmax: Tensor, dmean: Tensor, where: Tensor, slope: float,
    first: int, stop: int, *_: Any,
) -> Tensor:  # fmt: skip
    return torch.empty_like(y[first:stop])


_pool = operator(
    "norm_pool_fwd(Tensor y, Tensor ptr, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, float slope, "
    f"{NOISE}) -> (Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=_fake_pool,
)


_unpool = operator(
    "norm_pool_bwd(Tensor y, Tensor batch, Tensor vectors, Tensor dmax, Tensor dmean, Tensor where, float slope, "
    f"int first, int stop, {NOISE}) -> Tensor",
    implementations=__package__,
    fake=_fake_unpool,
)


class _NormPool(torch.autograd.Function):
    """Of y; or, where x and weight are given, of y = x W^T made from them: then y has no gradient of its own, and the one
    it would have is made and multiplied a few rows at a time."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor | None, weight: Tensor | None, gamma: Tensor, beta: Tensor,
        mean: Tensor, var: Tensor, count: Tensor, ptr: Tensor, eps: float, slope: float, training: bool,
        sync: bool, noise: Noise | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        scale, shift, rstd = affine(gamma, beta, mean, var, eps)
        drawn = draw(noise, ptr, y.shape[0])
        best, where, sums = _pool(y, ptr, scale, shift, mean, rstd, slope, *drawn)
        kept = sums[:, 0].clamp(min=1)
        ctx.save_for_backward(y, x, weight, gamma, scale, shift, mean, rstd, count, ptr, where, sums)
        ctx.options = (slope, training, sync, noise)
        return torch.where(where >= 0, best, 0).to(y.dtype), (sums[:, 1] / kept).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmax: Tensor, dmean: Tensor) -> tuple[Tensor | None, ...]:
        y, x, weight, gamma, scale, shift, mean, rstd, count, ptr, where, sums = ctx.saved_tensors
        slope, training, sync, noise = ctx.options
        dmax = torch.where(where >= 0, dmax.to(scale.dtype), 0)
        dmean = dmean.to(scale.dtype) / sums[:, 0].clamp(min=1)
        at = y.gather(0, where.clamp(min=0)).to(scale.dtype)
        dz_max = torch.where(scale * at + shift > 0, dmax, slope * dmax)
        slopes, hats = dmean * sums[:, 2] + dz_max, dmean * sums[:, 3] + dz_max * (at - mean) * rstd
        totals = torch.stack([slopes.sum(0), hats.sum(0)])
        dbeta, dgamma, mean_dz, mean_dz_hat = norm_gradients(totals, count, training, sync)
        vectors = torch.stack([scale, shift, mean, rstd, mean_dz, mean_dz_hat])
        batch = ptr_to_batch(ptr, y.shape[0])
        drawn = draw(noise, ptr, y.shape[0])
        common = dgamma.to(gamma.dtype), dbeta.to(gamma.dtype), *[None] * 9
        rows, given = y.shape[0], (y, batch, vectors, dmax, dmean, where, slope)
        if x is None:
            return _unpool(*given, 0, rows, *drawn), None, None, *common
        dx, dweight = torch.empty_like(x), scale.new_zeros(weight.T.shape)
        tile = TILE if x.is_cpu else max(1, rows)
        for first in range(0, rows, tile):
            stop = min(first + tile, rows)
            dy = _unpool(*given, first, stop, *drawn)
            dx[first:stop] = mm(dy, weight)
            dweight += mm(x[first:stop].T, dy)
        return None, dx, dweight.T.to(weight.dtype), *common


def norm_pool(
    y: Tensor,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
) -> tuple[Tensor, Tensor]:
    """`(max [B, C], mean [B, C])` over each cloud of y; arguments as those of `norm_act`."""
    rows, ptr = to_rows(y, batch, batch_size)
    check_channels(rows.shape[1], norm)
    rows = rows.contiguous()
    return _NormPool.apply(
        *(rows, None, None, norm.gamma, norm.beta, *statistics(rows, norm), ptr),
        *(norm.eps, negative_slope, norm.training, norm.sync, noise),
    )


def linear_norm_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
) -> tuple[Tensor, Tensor]:
    """`norm_pool` of x W^T + b, whose gradient is never whole in memory on the CPU.

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] with `batch` [M].
        weight, bias: [C_out, C_in] and [C_out] or None, those of `nn.Linear`.

    Raises:
        ValueError: shapes do not fit, or training with a single row.
    """
    rows, ptr = to_rows(x, batch, batch_size)
    if weight.dim() != 2 or weight.shape[1] != rows.shape[1]:
        raise ValueError(
            f"weight must be [C_out, {rows.shape[1]}] for x {describe(x)}; got {describe(weight)}."
        )
    check_channels(weight.shape[0], norm)
    device = x.device.type
    dtype = product_dtype(rows)
    rows, weight, beta = rows.to(dtype).contiguous(), weight.to(dtype), fold_bias(norm, bias)
    with torch.autocast(device, enabled=False):
        y = mm(rows.detach(), weight.detach().T)
        return _NormPool.apply(
            *(y, rows, weight, norm.gamma, beta, *statistics(y, norm, bias), ptr),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
