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

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import mm, product_dtype
from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import cdiv, jit, next_power_of_2
from dropfold.kernels.noise.draw import Drawn, Noise, draw, noise_row, noise_tile, numba_noise
from dropfold.kernels.noise.elementwise import NOISE, scalar
from dropfold.kernels.norm.batch_norm import (
    BatchNorm,
    affine,
    check_channels,
    fold_bias,
    norm_gradients,
    statistics,
)
from dropfold.kernels.points.clouds import local_idx, ptr_to_batch, to_rows

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange


TILE = 1024  # rows whose gradient is made at a time on the CPU: [1024, 1024] float32 stays in the cache


# --- CPU ---------------------------------------------------------------------------------------------------------


@njit(parallel=True)
def _pool_cpu(
    y, ptr, scale, shift, mean, rstd, slope, mode, factor, rate, noise_scale, seed, best, where, sums
):
    channels = y.shape[1]
    zero, one = y.dtype.type(0), y.dtype.type(1)
    for b in prange(ptr.shape[0] - 1):
        f = np.empty(channels, np.float32)
        top = np.full(channels, -np.inf, y.dtype)
        arg = np.full(channels, -1, np.int64)
        count, total = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        slopes, hats = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        for m in range(ptr[b], ptr[b + 1]):
            noise_row(mode, factor, rate, noise_scale, seed, m, f)
            if mode == 2 and f[0] == 0:
                continue
            for c in range(channels):
                # Arrays are read once, before any store: what a store may change is not vectorised.
                keep, held, value = f[c] > 0, top[c], y[m, c]
                z = scale[c] * value + shift[c]
                da = one if z > 0 else slope
                a = da * z
                better = keep & ((a > held) | (a != a))
                arg[c] = m if better else arg[c]
                top[c] = a if better else held
                da = da if keep else zero
                count[c] += one if keep else zero
                total[c] += da * z
                slopes[c] += da
                hats[c] += da * (value - mean[c]) * rstd[c]
        best[b] = top
        where[b] = arg
        sums[b, 0] = count
        sums[b, 1] = total
        sums[b, 2] = slopes
        sums[b, 3] = hats


@njit(parallel=True)
def _unpool_cpu(
    y, batch, scale, shift, mean, rstd, mean_dz, mean_dz_hat, dmax, dmean, where, slope, block, first, mode,
    factor, rate, noise_scale, seed, dy,
):  # fmt: skip
    rows, channels = dy.shape
    # dy = scale * dz + constant - linear * y
    linear = scale * rstd * mean_dz_hat
    constant = linear * mean - scale * mean_dz
    zero = y.dtype.type(0)
    for chunk in prange((rows + block - 1) // block):
        f = np.empty(channels, np.float32)
        for m in range(chunk * block, min(rows, (chunk + 1) * block)):
            noise_row(mode, factor, rate, noise_scale, seed, first + m, f)
            b = batch[first + m]
            for c in range(channels):
                value = y[m, c]
                d = scale[c] * dmean[b, c]
                d = d if scale[c] * value + shift[c] > 0 else slope * d
                d = d if f[c] > 0 else zero
                dy[m, c] = d + constant[c] - linear[c] * value
    for b in prange(where.shape[0]):
        for c in range(channels):
            m = where[b, c] - first
            if 0 <= m < rows:
                d = scale[c] * dmax[b, c]
                dy[m, c] += d if scale[c] * y[m, c] + shift[c] > 0 else slope * d


def _cpu_pool(
    y: Tensor, ptr: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float, *drawn: Any
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    best, where, sums = _fake_pool(y, ptr, scale)
    _pool_cpu(
        *(y.to(scale.dtype), ptr, scale, shift, mean, rstd, scalar(slope, scale.dtype)),
        *(*numba_noise(Drawn(*drawn)), best, where, sums),
    )
    return best, where, sums


def _cpu_unpool(
    y: Tensor, batch: Tensor, vectors: Tensor, dmax: Tensor, dmean: Tensor, where: Tensor, slope: float,
    first: int, stop: int, *drawn: Any,
) -> Tensor:  # fmt: skip
    dtype = vectors.dtype
    dy = torch.empty_like(y[first:stop], dtype=dtype)
    _unpool_cpu(
        *(y[first:stop].to(dtype), batch, *vectors.unbind(0), dmax, dmean, where),
        *(scalar(slope, dtype), 32, first, *numba_noise(Drawn(*drawn)), dy),
    )
    return dy.to(y.dtype)


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def _norm_pool_fwd_kernel(
    p_y, p_ptr, p_scale, p_shift, p_mean, p_rstd, slope, p_factor, p_rate, p_noise_scale, p_seed, p_best,
    p_where, p_sums, rows, channels, MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    BY_FOUR: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    there_c = o_c < channels
    scale = tl.load(p_scale + o_c, mask=there_c, other=0.0)[None, :]
    shift = tl.load(p_shift + o_c, mask=there_c, other=0.0)[None, :]
    mean = tl.load(p_mean + o_c, mask=there_c, other=0.0)[None, :]
    rstd = tl.load(p_rstd + o_c, mask=there_c, other=0.0)[None, :]
    start = tl.load(p_ptr + i_b)
    stop = tl.load(p_ptr + i_b + 1)
    top = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    arg = tl.full((BLOCK_C,), -1, tl.int64)
    count = tl.zeros((BLOCK_C,), tl.float32)
    total = tl.zeros((BLOCK_C,), tl.float32)
    slopes = tl.zeros((BLOCK_C,), tl.float32)
    hats = tl.zeros((BLOCK_C,), tl.float32)
    for i_m in range(start, stop, BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M).to(tl.int64)
        inside = (o_m[:, None] < stop) & there_c[None, :]
        y = tl.load(p_y + o_m[:, None] * channels + o_c[None, :], mask=inside, other=0.0).to(tl.float32)
        keep = inside
        if MODE != 0:
            f = noise_tile(
                *(MODE, p_factor, p_rate, p_noise_scale, p_seed, rows, o_m, i_c, channels),
                *(BLOCK_M, BLOCK_C, BY_FOUR),
            )
            keep = keep & (f > 0)
        z = scale * y + shift
        da = tl.where(keep, tl.where(z > 0, 1.0, slope), 0.0)
        a = tl.where(z > 0, z, slope * z)
        a = tl.where(keep, tl.where(a == a, a, float("inf")), float("-inf"))
        tile_top = tl.max(a, axis=0)
        # The first of equal maxima, as the CPU has it.
        first = tl.min(tl.where(keep & (a == tile_top[None, :]), o_m[:, None], rows), axis=0)
        arg = tl.where(tile_top > top, first, arg)
        top = tl.maximum(top, tile_top)
        count += tl.sum(keep.to(tl.float32), axis=0)
        total += tl.sum(da * z, axis=0)
        slopes += tl.sum(da, axis=0)
        hats += tl.sum(da * (y - mean) * rstd, axis=0)
    o = i_b * channels + o_c
    tl.store(p_best + o, top, mask=there_c)
    tl.store(p_where + o, arg, mask=there_c)
    o = i_b * 4 * channels + o_c
    tl.store(p_sums + o, count, mask=there_c)
    tl.store(p_sums + o + channels, total, mask=there_c)
    tl.store(p_sums + o + 2 * channels, slopes, mask=there_c)
    tl.store(p_sums + o + 3 * channels, hats, mask=there_c)


@jit
def _norm_pool_bwd_kernel(
    p_y, p_batch, p_vectors, p_dmax, p_dmean, p_where, slope, p_factor, p_rate, p_noise_scale, p_seed, p_dy,
    rows, channels, MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    there_c = o_c < channels
    inside = (o_m[:, None] < rows) & there_c[None, :]
    y = tl.load(p_y + o_m[:, None] * channels + o_c[None, :], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(p_batch + o_m, mask=o_m < rows, other=0)
    o_b = b[:, None] * channels + o_c[None, :]
    dz = tl.load(p_dmean + o_b, mask=inside, other=0.0)
    where = tl.load(p_where + o_b, mask=inside, other=-1)
    hit = inside & (where == o_m[:, None])
    dz += tl.load(p_dmax + o_b, mask=hit, other=0.0)
    scale = tl.load(p_vectors + o_c, mask=there_c, other=0.0)[None, :]
    shift = tl.load(p_vectors + channels + o_c, mask=there_c, other=0.0)[None, :]
    mean = tl.load(p_vectors + 2 * channels + o_c, mask=there_c, other=0.0)[None, :]
    rstd = tl.load(p_vectors + 3 * channels + o_c, mask=there_c, other=0.0)[None, :]
    mean_dz = tl.load(p_vectors + 4 * channels + o_c, mask=there_c, other=0.0)[None, :]
    mean_dz_hat = tl.load(p_vectors + 5 * channels + o_c, mask=there_c, other=0.0)[None, :]
    dz = tl.where(scale * y + shift > 0, dz, slope * dz)
    if MODE != 0:
        f = noise_tile(
            *(MODE, p_factor, p_rate, p_noise_scale, p_seed, rows, o_m, i_c, channels),
            *(BLOCK_M, BLOCK_C, BY_FOUR),
        )
        dz = tl.where(f > 0, dz, 0.0)
    dy = scale * (dz - mean_dz - (y - mean) * rstd * mean_dz_hat)
    tl.store(p_dy + o_m[:, None] * channels + o_c[None, :], dy.to(p_dy.dtype.element_ty), mask=inside)


def _launch_pool(
    y: Tensor, ptr: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float, mode: int,
    factor: Tensor, rate: Tensor, noise_scale: Tensor, seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    best, where, sums = _fake_pool(y, ptr, scale)
    rows, channels = y.shape
    block_c = min(32, max(4, next_power_of_2(channels)))
    _norm_pool_fwd_kernel[(best.shape[0], cdiv(channels, block_c))](
        *(y, ptr, scale, shift, mean, rstd, slope, factor, rate, noise_scale, seed, best, where, sums),
        *(rows, channels),
        MODE=mode,
        BLOCK_M=64,
        BLOCK_C=block_c,
        BY_FOUR=channels % 4 == 0,
    )
    return best, where, sums


def _launch_unpool(
    y: Tensor, batch: Tensor, vectors: Tensor, dmax: Tensor, dmean: Tensor, where: Tensor, slope: float,
    first: int, stop: int, mode: int, factor: Tensor, rate: Tensor, noise_scale: Tensor, seed: Tensor,
) -> Tensor:  # fmt: skip
    dy = torch.empty_like(y)
    rows, channels = y.shape
    block_c = min(128, max(4, next_power_of_2(channels)))
    block_m = 512 // block_c
    _norm_pool_bwd_kernel[(cdiv(rows, block_m), cdiv(channels, block_c))](
        *(y, batch, vectors, dmax, dmean, where, slope, factor, rate, noise_scale, seed, dy, rows, channels),
        MODE=mode,
        BLOCK_M=block_m,
        BLOCK_C=block_c,
        BY_FOUR=channels % 4 == 0,
    )
    return dy[first:stop]  # on a GPU, all of it


# --- operators, autograd, public function ------------------------------------------------------------------------


def _fake_pool(y: Tensor, ptr: Tensor, scale: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    clouds, channels = ptr.shape[0] - 1, y.shape[1]
    best = scale.new_empty((clouds, channels))
    return best, best.new_empty(best.shape, dtype=torch.int64), scale.new_empty((clouds, 4, channels))


def _fake_unpool(
    y: Tensor, batch: Tensor, vectors: Tensor, dmax: Tensor, dmean: Tensor, where: Tensor, slope: float,
    first: int, stop: int, *_: Any,
) -> Tensor:  # fmt: skip
    return torch.empty_like(y[first:stop])


_pool = operator(
    "norm_pool_fwd(Tensor y, Tensor ptr, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, float slope, "
    f"{NOISE}) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_pool,
    triton=_launch_pool,
    fake=_fake_pool,
)
_unpool = operator(
    "norm_pool_bwd(Tensor y, Tensor batch, Tensor vectors, Tensor dmax, Tensor dmean, Tensor where, float slope, "
    f"int first, int stop, {NOISE}) -> Tensor",
    cpu=_cpu_unpool,
    triton=_launch_unpool,
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
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        scale, shift, rstd = affine(gamma, beta, mean, var, eps)
        drawn = draw(noise, ptr, y.shape[0])
        best, where, sums = _pool(y, ptr, scale, shift, mean, rstd, slope, *drawn)
        kept = sums[:, 0].clamp(min=1)
        ctx.save_for_backward(y, x, weight, gamma, scale, shift, mean, rstd, count, ptr, where, sums)
        ctx.options = (slope, training, sync, noise)
        ctx.mark_non_differentiable(where)
        return torch.where(where >= 0, best, 0).to(y.dtype), (sums[:, 1] / kept).to(y.dtype), where

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmax: Tensor, dmean: Tensor, _: Any) -> tuple[Tensor | None, ...]:
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
    )[:2]


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
        return_argmax: whether to return `(max, mean, argmax)`: int64 [B, C_out], counted within the cloud for dense x
            and a row number otherwise, and -1 where all points were dropped.

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
        top, mean, argmax = _NormPool.apply(
            *(y, rows, weight, norm.gamma, beta, *statistics(y, norm, bias), ptr),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
    return (top, mean, local_idx(argmax, ptr, x)) if return_argmax else (top, mean)
