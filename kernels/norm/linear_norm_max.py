r"""Linear layer, BatchNorm, activation and the max over each cloud's points, without the activations.

    y = x W^T + b,   z = gamma * (y - mean) / sqrt(var + eps) + beta
    out_bc = max over points m of cloud b of a(z_mc)

with a(z) = z for z > 0 and negative_slope * z otherwise. BatchNorm's statistics follow from the mean and the centred
Gram matrix G = sum (x - mean_x)(x - mean_x)^T / M of x:  mean = W mean_x + b,  var_c = w_c^T G w_c. BatchNorm then an
increasing activation is monotone in every channel: with the sign of gamma folded into W only max_m y is needed, tile
by tile. Backward:

    g = dout a'(z) [B, C],   c1 = sum g / M,   c2 = sum g y_hat / M          (M over all processes)
    dx_m = sum over (b, c) with their maximum at m of scale_c g_bc w_c  -  v - A (x_m - mean_x)
           v = W^T (scale c1),   A = W^T diag(scale c2 rstd) W
    dw_c = sum_b scale_c g_bc x_arg(b, c)  -  scale_c (c1_c sum x + c2_c rstd_c sum x (x - mean_x)^T w_c)

so that neither direction makes anything of size [M, C_out]. Of equal maxima the first point has the gradient; at
gamma = 0 gamma's gradient is the one from above. With noise, fallen points (DropFeat: elements) are excluded from the
max and kept ones are not scaled; the statistics see all points; a cloud with nothing left is 0 and has no gradient. NaN
wins the max (the Triton kernel turns it into +inf).

The variance has the rounding of G: eps |w|^2 times G's largest eigenvalue. Where w nearly cancels correlated channels
(var far below that), it is less exact than the variance of a stored y.

Sources: the 1,024-wide layer of PointNet (Qi et al. 2017, figure 2); the closed forms are derived here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import gram, mm, product_dtype
from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import accumulator, cdiv, jit, next_power_of_2, precision
from dropfold.kernels.noise.draw import ELEMENTS, Drawn, Noise, draw, noise_span, noise_tile, numba_noise
from dropfold.kernels.noise.elementwise import NOISE
from dropfold.kernels.norm.batch_norm import (
    BatchNorm,
    Statistics,
    affine,
    check_channels,
    check_increasing,
    check_rows,
    fold_bias,
    norm_gradients,
    running_statistics,
    several_processes,
    sum_over_processes,
    update_running,
)
from dropfold.kernels.points.clouds import local_idx, to_rows, transposed

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

TILE = 512  # rows of y that are made at a time on the CPU: [512, 1024] float32 stays in the cache


# --- CPU ---------------------------------------------------------------------------------------------------------


@njit(parallel=True)
def _max_cpu(y, start, mode, factor, rate, noise_scale, seed, top, where):
    """Take the rows y of one tile into the running maxima of one cloud; channels in blocks share the cores."""
    rows, channels = y.shape
    for block in prange((channels + 127) // 128):
        lo, hi = block * 128, min(channels, (block + 1) * 128)
        f = np.empty(hi - lo, np.float32)
        best, arg = top[lo:hi].copy(), np.full(hi - lo, -1, np.int32)
        for m in range(rows):
            if mode == 2 and factor[start + m] == 0:
                continue
            if mode == 1:
                noise_span(rate, noise_scale, seed, (start + m) * channels + lo, f)
            row = y[m, lo:hi]
            for c in range(hi - lo):
                # Read before any store: what a store may change is not vectorised.
                value, held = row[c], best[c]
                better = (value > held) | (value != value)
                if mode == 1:
                    better &= f[c] > 0
                arg[c] = np.int32(m) if better else arg[c]
                best[c] = value if better else held
        for c in range(hi - lo):
            if arg[c] >= 0:
                top[lo + c] = best[c]
                where[lo + c] = start + arg[c]


@njit(parallel=True)
def _scatter_cpu(g, where, weight, dx):
    """dx[where[b, c]] += g[b, c] weight[c]: a cloud a thread, so that no two threads share a row."""
    for b in prange(where.shape[0]):
        for c in range(where.shape[1]):
            m = where[b, c]
            if m >= 0 and g[b, c] != 0:
                for i in range(dx.shape[1]):
                    dx[m, i] += g[b, c] * weight[c, i]


@njit(parallel=True)
def _collect_cpu(g, where, x, dweight):
    """dweight[c] += sum_b g[b, c] x[where[b, c]]."""
    for c in prange(where.shape[1]):
        for b in range(where.shape[0]):
            m = where[b, c]
            if m >= 0 and g[b, c] != 0:
                for i in range(x.shape[1]):
                    dweight[c, i] += g[b, c] * x[m, i]


def _cpu_max(x: Tensor, weight: Tensor, ptr: Tensor, *drawn: Any) -> tuple[Tensor, Tensor]:
    top, where = _fake_max(x, weight, ptr)
    top.fill_(-torch.inf)
    where.fill_(-1)
    noise = numba_noise(Drawn(*drawn))
    for b, (start, stop) in enumerate(pairwise(ptr.tolist())):
        for first in range(start, stop, TILE):
            y = mm(x[first : min(first + TILE, stop)], weight.T)
            _max_cpu(y.to(top.dtype), first, *noise, top[b], where[b])
    return top, where


def _cpu_sparse(g: Tensor, where: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dx, dweight = torch.zeros_like(x, dtype=g.dtype), torch.zeros_like(weight, dtype=g.dtype)
    _scatter_cpu(g, where, weight.to(g.dtype), dx)
    _collect_cpu(g, where, x.to(g.dtype), dweight)
    return dx, dweight


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def _linear_norm_max_fwd_kernel(
    p_x, p_weight, p_ptr, p_factor, p_rate, p_noise_scale, p_seed, p_top, p_where, rows, c_in, c_out,
    MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    BY_FOUR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    there_c = o_c < c_out
    start = tl.load(p_ptr + i_b)
    stop = tl.load(p_ptr + i_b + 1)
    top = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    arg = tl.full((BLOCK_C,), -1, tl.int64)
    for i_m in range(start, stop, BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M).to(tl.int64)
        there_m = o_m < stop
        y = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for i_k in range(0, c_in, BLOCK_K):
            o_k = i_k + tl.arange(0, BLOCK_K)
            x = tl.load(
                p_x + o_m[:, None] * c_in + o_k[None, :],
                mask=there_m[:, None] & (o_k[None, :] < c_in),
                other=0.0,
            )
            w = tl.load(
                p_weight + o_c[None, :].to(tl.int64) * c_in + o_k[:, None],
                mask=there_c[None, :] & (o_k[:, None] < c_in),
                other=0.0,
            )
            y = tl.dot(x, w, y, input_precision=PRECISION)
        keep = there_m[:, None] & there_c[None, :]
        if MODE != 0:
            f = noise_tile(
                *(MODE, p_factor, p_rate, p_noise_scale, p_seed, rows, o_m, i_c, c_out),
                *(BLOCK_M, BLOCK_C, BY_FOUR),
            )
            keep = keep & (f > 0)
        y = tl.where(y == y, y, float("inf"))
        y = tl.where(keep, y, float("-inf"))
        tile_top = tl.max(y, axis=0)
        # The first of equal maxima, as the CPU has it.
        first = tl.min(tl.where(keep & (y == tile_top[None, :]), o_m[:, None], rows), axis=0)
        arg = tl.where(tile_top > top, first, arg)
        top = tl.maximum(top, tile_top)
    tl.store(p_top + i_b * c_out + o_c, top, mask=there_c)
    tl.store(p_where + i_b * c_out + o_c, arg, mask=there_c)


@jit
def _linear_norm_max_bwd_x_kernel(p_g, p_weight, p_ptr, p_entries, p_dx, c_in, c_out, BLOCK_K: tl.constexpr):
    m = tl.program_id(0).to(tl.int64)
    o_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    there = o_k < c_in
    dx = tl.zeros((BLOCK_K,), tl.float32)
    for e in range(tl.load(p_ptr + m), tl.load(p_ptr + m + 1)):
        entry = tl.load(p_entries + e)
        w = tl.load(p_weight + (entry % c_out) * c_in + o_k, mask=there, other=0.0).to(tl.float32)
        dx += tl.load(p_g + entry) * w
    tl.store(p_dx + m * c_in + o_k, dx, mask=there)


@jit
def _linear_norm_max_bwd_w_kernel(
    p_g, p_where, p_x, p_dweight, clouds, c_in, c_out, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr
):
    o_c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    there_c = o_c < c_out
    dweight = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    for b in range(clouds):
        m = tl.load(p_where + b * c_out + o_c, mask=there_c, other=-1)
        g = tl.load(p_g + b * c_out + o_c, mask=there_c, other=0.0)
        inside = (m >= 0)[:, None] & (o_k[None, :] < c_in)
        x = tl.load(p_x + m[:, None] * c_in + o_k[None, :], mask=inside, other=0.0).to(tl.float32)
        dweight += g[:, None] * x
    o = o_c[:, None] * c_in + o_k[None, :]
    tl.store(p_dweight + o, dweight, mask=there_c[:, None] & (o_k[None, :] < c_in))


def _launch_max(
    x: Tensor, weight: Tensor, ptr: Tensor, mode: int, factor: Tensor, rate: Tensor, noise_scale: Tensor,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    top, where = _fake_max(x, weight, ptr)
    (rows, c_in), c_out = x.shape, weight.shape[0]
    exact = x.dtype == torch.float32  # products that take more registers; DropFeat's words take more still
    block_m, block_c = 32 if exact else 64, 32 if exact and mode == ELEMENTS else 64
    block_k = 16 if exact else min(64, max(16, next_power_of_2(c_in)))
    _linear_norm_max_fwd_kernel[(top.shape[0], cdiv(c_out, block_c))](
        *(x, weight, ptr, factor, rate, noise_scale, seed, top, where, rows, c_in, c_out),
        MODE=mode,
        BLOCK_M=block_m,
        BLOCK_C=block_c,
        BLOCK_K=block_k,
        BY_FOUR=c_out % 4 == 0,
        PRECISION=precision(x),
        num_stages=2,
    )
    return top, where


def _launch_sparse(g: Tensor, where: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    (rows, c_in), (clouds, c_out) = x.shape, where.shape
    dx, dweight = _fake_sparse(g, where, x, weight)
    ptr, entries = transposed(where, rows)
    block_k = min(128, max(16, next_power_of_2(c_in)))
    columns = cdiv(c_in, block_k)
    _linear_norm_max_bwd_x_kernel[(rows, columns)](
        g, weight, ptr, entries, dx, c_in, c_out, BLOCK_K=block_k, num_warps=1
    )
    _linear_norm_max_bwd_w_kernel[(cdiv(c_out, 16), columns)](
        g, where, x, dweight, clouds, c_in, c_out, BLOCK_C=16, BLOCK_K=block_k
    )
    return dx, dweight


# --- operators, autograd, public function ------------------------------------------------------------------------


def _fake_max(x: Tensor, weight: Tensor, ptr: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    top = x.new_empty((ptr.shape[0] - 1, weight.shape[0]), dtype=accumulator(x.dtype))
    return top, top.new_empty(top.shape, dtype=torch.int64)


def _fake_sparse(g: Tensor, where: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=g.dtype), torch.empty_like(weight, dtype=g.dtype)


_max = operator(
    f"linear_norm_max_fwd(Tensor x, Tensor weight, Tensor ptr, {NOISE}) -> (Tensor, Tensor)",
    cpu=_cpu_max,
    triton=_launch_max,
    fake=_fake_max,
)
_sparse = operator(
    "linear_norm_max_bwd(Tensor g, Tensor where, Tensor x, Tensor weight) -> (Tensor, Tensor)",
    cpu=_cpu_sparse,
    triton=_launch_sparse,
    fake=_fake_sparse,
)


def _column_mean(x: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
    """Mean of x's rows over all processes, and their number."""
    dtype = accumulator(x.dtype)
    total = torch.cat([x.sum(0, dtype=dtype), x.new_full((1,), float(x.shape[0]), dtype=dtype)])
    total = sum_over_processes(total, sync)
    return total[:-1] / total[-1], total[-1]


class _LinearNormMax(torch.autograd.Function):
    """Weight with the sign of gamma folded in; also returns mean, var and count for the buffers, and the argmax."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, ptr: Tensor, mean: Tensor,
        var: Tensor, eps: float, slope: float, training: bool, sync: bool, noise: Noise | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        dtype = accumulator(x.dtype)
        wide = weight.to(dtype)
        mean_x, outer, count = mean[:0], wide[:0], torch.ones_like(mean[0])
        if training:
            mean_x, count = _column_mean(x, sync)
            centred = x.to(dtype) - mean_x
            outer = gram(centred, centred)
            everywhere = sum_over_processes(outer, sync) / count
            mean, var = wide @ mean_x, (mm(wide, everywhere) * wide).sum(1).clamp(min=0)
        top, where = _max(x, weight, ptr, *draw(noise, ptr, x.shape[0]))
        scale, shift, rstd = affine(gamma.abs(), beta, mean, var, eps)
        z = scale * top + shift
        ctx.save_for_backward(x, weight, gamma, top, where, mean, scale, shift, rstd, mean_x, outer, count)
        ctx.options = (slope, training, sync)
        ctx.mark_non_differentiable(mean, var, count, where)
        return torch.where(where >= 0, torch.where(z > 0, z, slope * z), 0), mean, var, count, where

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, gamma, top, where, mean, scale, shift, rstd, mean_x, outer, count = ctx.saved_tensors
        slope, training, sync = ctx.options
        there = where >= 0
        g = torch.where(there, torch.where(scale * top + shift > 0, dout, slope * dout), 0).to(scale.dtype)
        hat = torch.where(there, (top - mean) * rstd, 0)
        sums = torch.stack([g.sum(0), (g * hat).sum(0)])
        dbeta, dgamma, c1, c2 = norm_gradients(sums, count, training, sync)
        dx, dweight = _sparse((scale * g).contiguous(), where, x, weight)
        if training:
            wide = weight.to(scale.dtype)
            slope_c = scale * c2 * rstd
            # -(v + A (x - mean_x)), with the part of mean_x taken into the constant.
            matrix = gram(wide, slope_c[:, None] * wide)
            dx -= mm(x.to(dx.dtype), matrix)
            dx += matrix @ mean_x - wide.T @ (scale * c1)
            local = x.sum(0, dtype=scale.dtype)
            # sum x (x - mean_x)^T of this process, from the Gram matrix about the mean of all processes.
            outer = outer + torch.outer(mean_x, local - x.shape[0] * mean_x)
            dweight -= torch.outer(scale * c1, local) + slope_c[:, None] * mm(wide, outer.T)
        sign = torch.where(gamma < 0, -1, 1)
        return (
            *(
                dx.to(x.dtype),
                dweight.to(weight.dtype),
                (sign * dgamma).to(gamma.dtype),
                dbeta.to(gamma.dtype),
            ),
            *[None] * 8,
        )


def linear_norm_max(
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
) -> Any:
    """Linear, BatchNorm, LeakyReLU and max pool; see the head of this file for the formula.

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] with `batch` [M].
        weight, bias: [C_out, C_in] and [C_out] or None, those of `nn.Linear`.
        norm: its vectors have C_out entries.
        negative_slope: of the LeakyReLU (0: ReLU, 1: none); not negative, the activation must increase.
        noise: one draw of noise; what falls is left out of the max.
        return_argmax: whether to return `(max, argmax)`.

    Returns:
        [B, C_out]; argmax is int64 [B, C_out], counted within the cloud for dense x and a row number otherwise, and -1
        where all points were dropped.

    Raises:
        ValueError: shapes do not fit, a decreasing activation, or training with a single row.
    """
    rows, ptr = to_rows(x, batch, batch_size)
    if weight.dim() != 2 or weight.shape[1] != rows.shape[1]:
        raise ValueError(
            f"weight must be [C_out, {rows.shape[1]}] for x {describe(x)}; got {describe(weight)}."
        )
    check_increasing(negative_slope)
    if norm.training and not several_processes(norm.sync):
        check_rows(rows.shape[0])
    check_channels(weight.shape[0], norm)
    dtype = product_dtype(rows)
    sign = torch.where(norm.gamma.detach() < 0, -1, 1).to(weight.dtype)
    rows, folded = rows.to(dtype).contiguous(), (sign[:, None] * weight).to(dtype)
    running = running_statistics(norm, rows.dtype)
    signs = sign.to(running.mean.dtype)
    beta = fold_bias(norm, bias)
    with torch.autocast(x.device.type, enabled=False):  # the statistics' products stay in float32
        out, mean, var, count, argmax = _LinearNormMax.apply(
            *(rows, folded, norm.gamma, beta, ptr, signs * running.mean, running.var),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
    if norm.training:
        update_running(norm, Statistics(signs * mean, var, count), bias)
    return (out.to(dtype), local_idx(argmax, ptr, x)) if return_argmax else out.to(dtype)
