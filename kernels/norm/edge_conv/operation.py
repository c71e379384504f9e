r"""EdgeConv without edges: linear map of every edge, BatchNorm, activation and the max over neighbours, exactly.

    y_ij = W [x_j - x_i ; x_i] + b,   z = gamma * (y - mean) / sqrt(var + eps) + beta
    out_i = max over j in N(i) of a(z_ij)

with a(z) = z for z > 0 and negative_slope * z otherwise. With W = [W_n | W_c] the map splits into point-wise products

    y_ij = P_i + Q_j,   Q = x W_n^T,   P = x (W_c - W_n)^T + b

so the matrix product is over M points and not over M k edges. BatchNorm then an increasing activation is monotone in
every channel: with the sign of gamma folded into W, only max_j Q_j is needed. One pass over the graph takes, for each i,
max_j Q_j with its position, S_i = sum_j Q_j, and the mean and variance of y over the edges (block by block, each about a
value of its own, merged in float64). Backward goes over the transposed graph, without atomics:

    g_i = dout_i a'(z_i),   c1 = sum g / E,   c2 = sum g y_hat / E     (E edges, over all processes)
    dP_i = scale * (g_i - k c1 - c2 rstd (k P_i + S_i - k mean))
    dQ_j = scale * (sum of g_i where j is i's maximum - sum over i with j in N(i) of (c1 + c2 rstd (P_i + Q_j - mean)))

Of equal maxima the first in the list of neighbours has the gradient; at gamma = 0 gamma's gradient is the one from above.
With noise, dropped neighbours (DropFeat: elements) are left out of the max and kept ones are not scaled; the statistics
see every edge; a point whose neighbours are all dropped is 0 and has no gradient. NaN wins a max.

Sources: EdgeConv, Wang et al. 2019, "Dynamic graph CNN for learning on point clouds", equation 8; the factorisation and
its gradient are derived here.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import gram, input_dtype, mm
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.launch import accumulator, cdiv
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw import Noise, draw, keep_scale
from dropfold.kernels.noise.elementwise.operation import NOISE, norm_apply, norm_sums
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    Statistics,
    affine,
    batch_statistics,
    block_counts,
    check_channels,
    check_increasing,
    check_weight,
    fold_bias,
    fold_sign,
    merge_moments,
    norm_gradients,
    running_statistics,
    update_running,
)
from dropfold.kernels.norm.evaluation.operation import edge_conv_eval, nothing_learns, scale_and_shift
from dropfold.kernels.norm.plain import activate, masked_max, normalize
from dropfold.kernels.points.clouds import check_neighbours, global_idx, to_rows

POINTS_PER_BLOCK = 32  # whose edges are summed in float32 before the blocks are merged in float64


def reference(
    x: Tensor,
    idx: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.2,
    noise: Noise | None = None,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The specification of `edge_conv` in torch: every edge is made, autograd has the gradients; any type and device."""
    rows, ptr = to_rows(x, batch, batch_size)
    neighbours = global_idx(idx)
    central = rows[:, None].expand(-1, neighbours.shape[1], -1)
    edges = torch.cat([rows[neighbours] - central, central], -1)
    z = normalize(torch.nn.functional.linear(edges, weight, bias), norm)
    keep = keep_scale(noise, ptr, len(rows), z.shape[-1])[neighbours] > 0
    maximum, argmax = (t.view(*x.shape[:-1], t.shape[-1]) for t in masked_max(z, keep, 1))
    out = torch.where(argmax >= 0, activate(maximum, negative_slope), 0)
    return (out, argmax) if return_argmax else out


def empty_forward(pq: Tensor, idx: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """`max_j y_ij` [M, C] (0 where noise drops all), its position among the neighbours [M, C] (k: none), S [M, C], means and
    m2s [P, C] of blocks."""
    (rows, k), channels = idx.shape, pq.shape[1] // 2
    dtype = accumulator(pq.dtype)
    maximum = pq.new_empty((rows, channels), dtype=dtype)
    argmax = pq.new_empty((rows, channels), dtype=torch.uint8 if k < 256 else torch.int32)
    means = pq.new_empty((cdiv(rows, POINTS_PER_BLOCK), channels), dtype=dtype)
    return maximum, argmax, torch.empty_like(maximum), means, torch.empty_like(means)


_forward = operator(
    f"edge_conv_fwd(Tensor pq, Tensor idx, {NOISE}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=empty_forward,
)
_backward = operator(
    "edge_conv_bwd(Tensor pq, Tensor g, Tensor total, Tensor argmax, Tensor idx, Tensor vectors) -> Tensor",
    implementations=__package__,
    fake=lambda pq, *_: torch.empty_like(pq),
)


class _EdgeConv(torch.autograd.Function):
    """Of rows x [M, C_in], the weight [2 C_out, C_in] of [P | Q] and gamma >= 0 (`fold_sign`); also returns mean, var and
    count for the running buffers, and the argmax."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, idx: Tensor, ptr: Tensor,
        mean: Tensor, var: Tensor, eps: float, slope: float, training: bool, sync: bool, noise: Noise | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        (rows, k), none, pq = idx.shape, draw(None, ptr, 0), mm(x, weight.T)
        maximum, argmax, total, means, m2s = _forward(pq, idx, *draw(noise, ptr, rows))
        if training:
            moments = merge_moments(means, m2s, k * block_counts(rows, POINTS_PER_BLOCK, pq.device))
            mean, var, count = batch_statistics(*moments, rows * k, sync)
        else:
            count = torch.ones_like(mean[0])
        scale, shift, rstd = affine(gamma, beta, mean, var, eps)
        ctx.save_for_backward(
            x, weight, pq, gamma, idx, ptr, maximum, argmax, total, mean, scale, shift, rstd, count
        )
        ctx.options = (slope, training, sync, noise)
        ctx.mark_non_differentiable(mean, var, count, argmax)
        out = norm_apply(maximum, scale, shift, slope, *none)
        if noise is not None:
            out.masked_fill_(argmax == k, 0)
        return out, mean, var, count, argmax

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, pq, gamma, idx, ptr, maximum, argmax, total, *rest = ctx.saved_tensors
        mean, scale, shift, rstd, count = rest
        slope, training, sync, noise = ctx.options
        none = draw(None, ptr, 0)
        dout = dout.contiguous()
        if noise is not None:
            dout = dout.masked_fill(argmax == idx.shape[1], 0)
        g, sums = norm_sums(dout, maximum, scale, shift, mean, rstd, slope, True, *none)
        dbeta, dgamma, c1, c2 = norm_gradients(sums, count, training, sync)
        dpq = _backward(pq, g, total, argmax, idx, torch.stack([scale, mean, c1, c2 * rstd]))
        dx = mm(dpq, weight) if ctx.needs_input_grad[0] else None
        return dx, gram(dpq, x), dgamma.to(gamma.dtype), dbeta.to(gamma.dtype), *[None] * 9


@overload
def edge_conv(
    x: Tensor, idx: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.2,
    noise: Noise | None = None, return_argmax: Literal[False] = False,
) -> Tensor: ...  # fmt: skip


@overload
def edge_conv(
    x: Tensor, idx: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.2,
    noise: Noise | None = None, return_argmax: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def edge_conv(
    x: Tensor,
    idx: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.2,
    noise: Noise | None = None,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """One EdgeConv layer; see the head of this file for the formula.

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] (with `batch` [M] where noise counts by cloud).
        idx: int64 neighbours: [B, N, k] counted within the cloud, or [M, k] row numbers; what `knn` returns.
        weight: [C_out, 2 C_in], acting on [x_j - x_i ; x_i].
        bias: [C_out] or None; it cancels in training and enters the running mean.
        norm: its vectors have C_out entries.
        negative_slope: of the LeakyReLU (0: ReLU, 1: none); not negative, the activation must increase.
        noise: one draw of noise; what it drops is left out of the max.
        return_argmax: whether to return `(max, argmax)`.

    Returns:
        [B, N, C_out] or [M, C_out], in the type of the matrix product (x's, or autocast's); argmax is int64 like it, the
        position in the list of neighbours of the one with the max, and -1 where all were dropped.

    Raises:
        ValueError: shapes do not fit, a decreasing activation, or training with a single edge.
    """
    rows, ptr = to_rows(x, batch, batch_size)
    check_neighbours(idx, x)
    channels = rows.shape[1]
    check_weight(weight, 2 * channels, x, bias)
    check_increasing(negative_slope)
    check_channels(weight.shape[0], norm, x)
    nearby, central = weight[:, :channels], weight[:, channels:]
    if not return_argmax and nothing_learns(norm, noise, rows, weight, bias):
        graph = rows, central - nearby, nearby, global_idx(idx)
        out = edge_conv_eval(*graph, *scale_and_shift(norm, bias), negative_slope)
        return out.view(*x.shape[:-1], out.shape[1])
    sign, increasing = fold_sign(norm)
    sign_of_row = sign.to(weight.dtype)[:, None]
    folded = torch.cat([sign_of_row * (central - nearby), sign_of_row * nearby])
    dtype = input_dtype(rows)
    running = running_statistics(increasing, dtype)
    with torch.autocast(x.device.type, enabled=False):
        out, mean, var, count, argmax = _EdgeConv.apply(
            *(rows.to(dtype), folded.to(dtype), increasing.gamma, fold_bias(norm, bias)),
            *(global_idx(idx).contiguous(), ptr, running.mean, running.var),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
    if norm.training:
        update_running(norm, Statistics(sign * mean, var, count), bias)
    out = out.to(dtype).view(*x.shape[:-1], out.shape[-1])
    if not return_argmax:
        return out
    return out, torch.where(argmax == idx.shape[-1], -1, argmax.long()).view_as(out)
