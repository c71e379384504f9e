r"""BatchNorm, activation, noise, then max and mean over each cloud's points; the activations are not stored.

    z = gamma * (y - mean) / sqrt(var + eps) + beta,   a(z) = z for z > 0, negative_slope * z otherwise
    max_bc  = max over the kept points m of cloud b of a(z_mc)
    mean_bc = mean over the same points

Statistics are those of all points. Noise excludes points (or, DropFeat, elements) from both pools: a zero would win
the max over LeakyReLU's negative values. Kept ones are not scaled: neither pool's size depends on how many are kept. Where
nothing is kept both pools are 0 and so is their gradient. Of equal maxima the first point has the gradient.
NaN wins the max.

Forward reads y twice, backward reads it once: the sums that BatchNorm's gradient needs follow, for each cloud, from
sum a'(z) and sum a'(z) y_hat over the kept points, which forward takes in its own pass.

Source: the 1,024-wide layer of DGCNN (Wang et al. 2019, figure 3).
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import input_dtype, mm
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw import Noise, draw, keep_scale
from dropfold.kernels.noise.elementwise.operation import NOISE
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    affine,
    check_channels,
    check_weight,
    fold_bias,
    norm_gradients,
    statistics,
)
from dropfold.kernels.norm.evaluation.operation import linear_pool_eval, nothing_learns, scale_and_shift
from dropfold.kernels.norm.plain import activate, max_over_segments, mean_over_segments, normalize
from dropfold.kernels.points.clouds import local_idx, ptr_to_batch, to_rows

ROWS_PER_TILE = 1024  # whose gradient is made at a time on the CPU: [1024, 1024] float32 stays in the cache


def reference(
    y: Tensor,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
    return_argmax: bool = False,
) -> tuple[Tensor, ...]:
    """The specification of `norm_pool` in torch: activations are stored, autograd has the gradients; any type and device."""
    rows, ptr = to_rows(y, batch, batch_size)
    a = activate(normalize(rows, norm), negative_slope)
    keep = keep_scale(noise, ptr, *a.shape) > 0
    maximum, argmax = max_over_segments(a, keep, ptr)
    pools = maximum, mean_over_segments(a, keep, ptr)
    return (*pools, local_idx(argmax, ptr, y)) if return_argmax else pools


def linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, **options: Any
) -> tuple[Tensor, ...]:
    """The specification of `linear_norm_pool` in torch, with the same options."""
    return reference(torch.nn.functional.linear(x, weight, bias), norm, **options)


def empty_pools(y: Tensor, ptr: Tensor, scale: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The max [B, C], the row that has it (-1: none), and sums [B, 4, C] over the kept points of 1, a, a' and a' y_hat."""
    clouds, channels = ptr.shape[0] - 1, y.shape[1]
    maximum = scale.new_empty((clouds, channels))
    argmax = maximum.new_empty(maximum.shape, dtype=torch.int64)
    return maximum, argmax, scale.new_empty((clouds, 4, channels))


_pool = operator(
    "norm_pool_fwd(Tensor y, Tensor ptr, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, float slope, "
    f"{NOISE}) -> (Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=empty_pools,
)
_unpool = operator(
    "norm_pool_bwd(Tensor y, Tensor batch, Tensor vectors, Tensor dmax, Tensor dmean, Tensor argmax, float slope, "
    f"SymInt first, SymInt stop, {NOISE}) -> Tensor",
    implementations=__package__,
    fake=lambda y, batch, vectors, dmax, dmean, argmax, slope, first, stop, *_: torch.empty_like(
        y[first:stop]
    ),
)


class _NormPool(torch.autograd.Function):
    """Pools y, and returns the argmax too. If x and weight are given, y = x W^T is an intermediate: backward forms dy a tile
    at a time, so dy is never stored."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor | None, weight: Tensor | None, gamma: Tensor, beta: Tensor,
        mean: Tensor, var: Tensor, count: Tensor, ptr: Tensor, eps: float, slope: float, training: bool,
        sync: bool, noise: Noise | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        scale, shift, rstd = affine(gamma, beta, mean, var, eps)
        drawn = draw(noise, ptr, y.shape[0])
        maximum, argmax, sums = _pool(y, ptr, scale, shift, mean, rstd, slope, *drawn)
        kept = sums[:, 0].clamp(min=1)
        ctx.save_for_backward(y, x, weight, gamma, scale, shift, mean, rstd, count, ptr, argmax, sums)
        ctx.options = (slope, training, sync, noise)
        ctx.mark_non_differentiable(argmax)
        return torch.where(argmax >= 0, maximum, 0).to(y.dtype), (sums[:, 1] / kept).to(y.dtype), argmax

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dmax: Tensor, dmean: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        y, x, weight, gamma, scale, shift, mean, rstd, count, ptr, argmax, sums = ctx.saved_tensors
        slope, training, sync, noise = ctx.options
        dmax = torch.where(argmax >= 0, dmax.to(scale.dtype), 0)
        dmean = dmean.to(scale.dtype) / sums[:, 0].clamp(min=1)
        highest = y.gather(0, argmax.clamp(min=0)).to(scale.dtype)
        dz_max = torch.where(scale * highest + shift > 0, dmax, slope * dmax)
        dz = dmean * sums[:, 2] + dz_max
        dz_y_hat = dmean * sums[:, 3] + dz_max * (highest - mean) * rstd
        totals = torch.stack([dz.sum(0), dz_y_hat.sum(0)])
        dbeta, dgamma, mean_dz, mean_dz_y_hat = norm_gradients(totals, count, training, sync)
        vectors = torch.stack([scale, shift, mean, rstd, mean_dz, mean_dz_y_hat])
        batch = ptr_to_batch(ptr, y.shape[0])
        drawn = draw(noise, ptr, y.shape[0])
        common = dgamma.to(gamma.dtype), dbeta.to(gamma.dtype), *[None] * 9
        rows, inputs = y.shape[0], (y, batch, vectors, dmax, dmean, argmax, slope)
        if x is None:
            return _unpool(*inputs, 0, rows, *drawn), None, None, *common
        dx, dweight = torch.empty_like(x), scale.new_zeros(weight.T.shape)
        tile = ROWS_PER_TILE if x.is_cpu else max(1, rows)
        # A compiled graph serves any number of rows, so it has no loop over tiles.
        for first in [0] if torch.compiler.is_compiling() else range(0, rows, tile):
            stop = rows if torch.compiler.is_compiling() else min(first + tile, rows)
            dy = _unpool(*inputs, first, stop, *drawn)
            dx[first:stop] = mm(dy, weight)
            dweight += mm(x[first:stop].T, dy)
        return None, dx, dweight.T.to(weight.dtype), *common


@overload
def norm_pool(
    y: Tensor, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[False] = False,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@overload
def norm_pool(
    y: Tensor, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[True],
) -> tuple[Tensor, Tensor, Tensor]: ...  # fmt: skip


def norm_pool(
    y: Tensor,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
    return_argmax: bool = False,
) -> tuple[Tensor, ...]:
    """`(max [B, C], mean [B, C])` over each cloud of y; arguments as those of `norm_act`.

    With `return_argmax` also the argmax, int64 [B, C]: counted within the cloud for dense y and a row number otherwise, and
    -1 where all points were dropped.
    """
    rows, ptr = to_rows(y, batch, batch_size)
    check_channels(rows.shape[1], norm, y)
    rows = rows.contiguous()
    *pools, argmax = _NormPool.apply(
        *(rows, None, None, norm.gamma, norm.beta, *statistics(rows, norm), ptr),
        *(norm.eps, negative_slope, norm.training, norm.sync, noise),
    )
    return (*pools, local_idx(argmax, ptr, y)) if return_argmax else tuple(pools)


@overload
def linear_norm_pool(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[False] = False,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@overload
def linear_norm_pool(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[True],
) -> tuple[Tensor, Tensor, Tensor]: ...  # fmt: skip


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
    return_argmax: bool = False,
) -> tuple[Tensor, ...]:
    """`norm_pool` of x W^T + b, whose gradient is never whole in memory on the CPU.

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] with `batch` [M].
        weight, bias: [C_out, C_in] and [C_out] or None, those of `nn.Linear`.
        return_argmax: whether to return `(max, mean, argmax)`, as `norm_pool` does.

    Raises:
        ValueError: shapes do not fit, or training with a single row.
    """
    rows, ptr = to_rows(x, batch, batch_size)
    check_weight(weight, rows.shape[1], x, bias)
    check_channels(weight.shape[0], norm, x)
    if not return_argmax and negative_slope >= 0 and nothing_learns(norm, noise, rows, weight, bias):
        return linear_pool_eval(rows, weight, ptr, *scale_and_shift(norm, bias), negative_slope, True)
    device = x.device.type
    dtype = input_dtype(rows)
    rows, weight, beta = rows.to(dtype).contiguous(), weight.to(dtype), fold_bias(norm, bias)
    with torch.autocast(device, enabled=False):
        y = mm(rows.detach(), weight.detach().T)
        *pools, argmax = _NormPool.apply(
            *(y, rows, weight, norm.gamma, beta, *statistics(y, norm, bias), ptr),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
    return (*pools, local_idx(argmax, ptr, x)) if return_argmax else tuple(pools)
