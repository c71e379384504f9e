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
With noise, fallen neighbours (DropFeat: elements) are excluded from the max and kept ones are not scaled; the
statistics see every edge; a point with no neighbour left is 0 and has no gradient. NaN wins a max.

Sources: EdgeConv, Wang et al. 2019, "Dynamic graph CNN for learning on point clouds", equation 8; the factorisation and
its gradient are derived here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import COORDINATES, gram, mm, product_dtype
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw.operation import Noise, draw
from dropfold.kernels.noise.elementwise.operation import NOISE, norm_apply, norm_sums
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    Statistics,
    affine,
    batch_statistics,
    block_counts,
    check_channels,
    check_increasing,
    fold_bias,
    merge_moments,
    norm_gradients,
    running_statistics,
    update_running,
)
from dropfold.kernels.norm.edge_conv.outputs import BLOCK, _fake_gather
from dropfold.kernels.points.clouds import check_neighbours, global_idx, to_rows

_gather = operator(
    f"edge_conv_fwd(Tensor pq, Tensor idx, {NOISE}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=_fake_gather,
)


_backward = operator(
    "edge_conv_bwd(Tensor pq, Tensor g, Tensor total, Tensor where, Tensor idx, Tensor vectors) -> Tensor",
    implementations=__package__,
    fake=lambda pq, *_: torch.empty_like(pq),
)


class _EdgeConv(torch.autograd.Function):
    """Of rows x [M, C_in] and the folded weight [2 C_out, C_in] of [P | Q]; also returns mean, var and count for the
    buffers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, idx: Tensor, ptr: Tensor,
        mean: Tensor, var: Tensor, eps: float, slope: float, training: bool, sync: bool, noise: Noise | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        (rows, k), none, pq = idx.shape, draw(None, ptr, 0), mm(x, weight.T)
        top, where, total, means, m2s = _gather(pq, idx, *draw(noise, ptr, rows))
        if training:
            own = merge_moments(means, m2s, k * block_counts(rows, BLOCK, pq.device))
            mean, var, count = batch_statistics(*own, rows * k, sync)
        else:
            count = torch.ones_like(mean[0])
        scale, shift, rstd = affine(gamma.abs(), beta, mean, var, eps)
        ctx.save_for_backward(
            x, weight, pq, gamma, idx, ptr, top, where, total, mean, scale, shift, rstd, count
        )
        ctx.options = (slope, training, sync)
        ctx.mark_non_differentiable(mean, var, count)
        return norm_apply(top, scale, shift, slope, *none), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, pq, gamma, idx, ptr, top, where, total, mean, scale, shift, rstd, count = ctx.saved_tensors
        slope, training, sync = ctx.options
        none = draw(None, ptr, 0)
        g, sums = norm_sums(dout.contiguous(), top, scale, shift, mean, rstd, slope, True, *none)
        dbeta, dgamma, c1, c2 = norm_gradients(sums, count, training, sync)
        dpq = _backward(pq, g, total, where, idx, torch.stack([scale, mean, c1, c2 * rstd]))
        sign = torch.where(gamma < 0, -1, 1)
        dx = mm(dpq, weight) if ctx.needs_input_grad[0] else None
        dgamma, dbeta = (sign * dgamma).to(gamma.dtype), dbeta.to(gamma.dtype)
        return dx, gram(dpq, x), dgamma, dbeta, *[None] * 9


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
) -> Tensor:
    """One EdgeConv layer; see the head of this file for the formula.

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] (with `batch` [M] where noise counts by cloud).
        idx: int64 neighbours: [B, N, k] counted within the cloud, or [M, k] row numbers; what `knn` returns.
        weight: [C_out, 2 C_in], acting on [x_j - x_i ; x_i].
        bias: [C_out] or None; it cancels in training and enters the running mean.
        norm: its vectors have C_out entries.
        negative_slope: of the LeakyReLU (0: ReLU, 1: none); not negative, the activation must increase.
        noise: one draw of noise; what falls is left out of the max.

    Returns:
        [B, N, C_out] or [M, C_out], in the type of the matrix product (x's, or autocast's).

    Raises:
        ValueError: shapes do not fit, a decreasing activation, or training with a single edge.
    """
    rows, ptr = to_rows(x, batch, batch_size)
    check_neighbours(idx, x)
    if weight.dim() != 2 or weight.shape[1] != 2 * rows.shape[1]:
        raise ValueError(
            f"weight must be [C_out, {2 * rows.shape[1]}] for x {describe(x)}; got {describe(weight)}."
        )
    check_increasing(negative_slope)
    check_channels(weight.shape[0], norm)
    channels = rows.shape[1]
    sign = torch.where(norm.gamma.detach() < 0, -1, 1).to(weight.dtype)[:, None]
    nearby, central = weight[:, :channels], weight[:, channels:]
    folded = torch.cat([sign * (central - nearby), sign * nearby])
    dtype = product_dtype(rows) if channels > COORDINATES else rows.dtype
    running = running_statistics(norm, dtype)
    signs = sign[:, 0].to(running.mean.dtype)
    with torch.autocast(x.device.type, enabled=False):
        out, mean, var, count = _EdgeConv.apply(
            *(rows.to(dtype), folded.to(dtype), norm.gamma, fold_bias(norm, bias)),
            *(global_idx(idx).contiguous(), ptr, signs * running.mean, running.var),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
    if norm.training:
        update_running(norm, Statistics(signs * mean, var, count), bias)
    return out.to(dtype).view(*x.shape[:-1], weight.shape[0])
