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

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import gram, mm, product_dtype
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw.operation import Noise, draw
from dropfold.kernels.noise.elementwise.operation import NOISE
from dropfold.kernels.norm.batch_norm.operation import (
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
from dropfold.kernels.norm.linear_norm_max.outputs import _fake_max, _fake_sparse
from dropfold.kernels.points.clouds import to_rows

_max = operator(
    f"linear_norm_max_fwd(Tensor x, Tensor weight, Tensor ptr, {NOISE}) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=_fake_max,
)


_sparse = operator(
    "linear_norm_max_bwd(Tensor g, Tensor where, Tensor x, Tensor weight) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=_fake_sparse,
)


def _column_mean(x: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
    """Mean of x's rows over all processes, and their number."""
    dtype = accumulator(x.dtype)
    total = torch.cat([x.sum(0, dtype=dtype), x.new_full((1,), float(x.shape[0]), dtype=dtype)])
    total = sum_over_processes(total, sync)
    return total[:-1] / total[-1], total[-1]


class _LinearNormMax(torch.autograd.Function):
    """Weight with the sign of gamma folded in; also returns mean, var and count for the buffers."""

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
        ctx.mark_non_differentiable(mean, var, count)
        return torch.where(where >= 0, torch.where(z > 0, z, slope * z), 0), mean, var, count

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
) -> Tensor:
    """Linear, BatchNorm, LeakyReLU and max pool; see the head of this file for the formula.

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] with `batch` [M].
        weight, bias: [C_out, C_in] and [C_out] or None, those of `nn.Linear`.
        norm: its vectors have C_out entries.
        negative_slope: of the LeakyReLU (0: ReLU, 1: none); not negative, the activation must increase.
        noise: one draw of noise; what falls is left out of the max.

    Returns:
        [B, C_out].

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
        out, mean, var, count = _LinearNormMax.apply(
            *(rows, folded, norm.gamma, beta, ptr, signs * running.mean, running.var),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
    if norm.training:
        update_running(norm, Statistics(signs * mean, var, count), bias)
    return out.to(dtype)
