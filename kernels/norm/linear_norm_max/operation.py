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
gamma = 0 gamma's gradient is the one from above. With noise, dropped points (DropFeat: elements) are left out of the
max and kept ones are not scaled; the statistics see all points; a cloud whose points are all dropped is 0 and has no
gradient. NaN wins the max.

The variance has the rounding of G: eps |w|^2 times G's largest eigenvalue. Where w nearly cancels correlated channels
(var far below that), it is less exact than the variance of a stored y.

Sources: the 1,024-wide layer of PointNet (Qi et al. 2017, figure 2); the closed forms are derived here.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import gram, input_dtype, mm
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw import Noise, draw, keep_scale
from dropfold.kernels.noise.elementwise.operation import NOISE
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    Statistics,
    affine,
    check_channels,
    check_increasing,
    check_rows,
    check_weight,
    fold_bias,
    fold_sign,
    norm_gradients,
    running_statistics,
    several_processes,
    sum_over_processes,
    update_running,
)
from dropfold.kernels.norm.evaluation.operation import linear_pool_eval, nothing_learns, scale_and_shift
from dropfold.kernels.norm.linear_max import (
    activate_maximum,
    dense_gradient,
    gradient_at_maximum,
    moments_of_linear,
)
from dropfold.kernels.norm.plain import activate, max_over_segments, normalize
from dropfold.kernels.points.clouds import local_idx, to_rows


def reference(
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
) -> Tensor | tuple[Tensor, Tensor]:
    """The specification of `linear_norm_max` in torch: activations are stored, autograd has the gradients; any type and
    device."""
    rows, ptr = to_rows(x, batch, batch_size)
    z = normalize(torch.nn.functional.linear(rows, weight, bias), norm)
    keep = keep_scale(noise, ptr, *z.shape) > 0
    maximum, argmax = max_over_segments(z, keep, ptr)
    out = torch.where(argmax >= 0, activate(maximum, negative_slope), 0)
    return (out, local_idx(argmax, ptr, x)) if return_argmax else out


def empty_maximum(x: Tensor, weight: Tensor, ptr: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """The max [B, C_out] of x W^T, and the row that has it (-1: none)."""
    maximum = x.new_empty((ptr.shape[0] - 1, weight.shape[0]), dtype=accumulator(x.dtype))
    return maximum, maximum.new_empty(maximum.shape, dtype=torch.int64)


def empty_gradients(g: Tensor, argmax: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and the weight, of the max alone."""
    return torch.empty_like(x, dtype=g.dtype), torch.empty_like(weight, dtype=g.dtype)


_forward = operator(
    f"linear_norm_max_fwd(Tensor x, Tensor weight, Tensor ptr, {NOISE}) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_maximum,
)
_backward_of_max = operator(
    "linear_norm_max_bwd(Tensor g, Tensor argmax, Tensor x, Tensor weight) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_gradients,
)


def _column_mean(x: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
    """Mean of x's rows over all processes, and their number."""
    dtype = accumulator(x.dtype)
    total = torch.cat([x.sum(0, dtype=dtype), x.new_full((1,), float(x.shape[0]), dtype=dtype)])
    total = sum_over_processes(total, sync)
    return total[:-1] / total[-1], total[-1]


class _LinearNormMax(torch.autograd.Function):
    """With gamma >= 0 (`fold_sign`); also returns mean, var and count for the running buffers, and the argmax."""

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
            mean, var = moments_of_linear(wide, mean_x, everywhere)
        maximum, argmax = _forward(x, weight, ptr, *draw(noise, ptr, x.shape[0]))
        scale, shift, rstd = affine(gamma, beta, mean, var, eps)
        ctx.save_for_backward(
            x, weight, gamma, maximum, argmax, mean, scale, shift, rstd, mean_x, outer, count
        )
        ctx.options = (slope, training, sync)
        ctx.mark_non_differentiable(mean, var, count, argmax)
        return activate_maximum(maximum, argmax, scale, shift, slope), mean, var, count, argmax

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, gamma, maximum, argmax, mean, scale, shift, rstd, mean_x, outer, count = ctx.saved_tensors
        slope, training, sync = ctx.options
        g, sums = gradient_at_maximum(dout, maximum, argmax, scale, shift, mean, rstd, slope)
        dbeta, dgamma, c1, c2 = norm_gradients(sums, count, training, sync)
        dx, dweight = _backward_of_max((scale * g).contiguous(), argmax, x, weight)
        if training:
            wide = weight.to(scale.dtype)
            matrix, constant = dense_gradient(wide, mean_x, scale, rstd, c1, c2)
            dx += mm(x.to(dx.dtype), matrix)
            dx += constant
            local = x.sum(0, dtype=scale.dtype)
            # sum x (x - mean_x)^T of this process, from the Gram matrix about the mean of all processes.
            outer = outer + torch.outer(mean_x, local - x.shape[0] * mean_x)
            dweight -= torch.outer(scale * c1, local) + (scale * c2 * rstd)[:, None] * mm(wide, outer.T)
        dgamma, dbeta = dgamma.to(gamma.dtype), dbeta.to(gamma.dtype)
        return dx.to(x.dtype), dweight.to(weight.dtype), dgamma, dbeta, *[None] * 8


@overload
def linear_norm_max(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[False] = False,
) -> Tensor: ...  # fmt: skip


@overload
def linear_norm_max(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


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
) -> Tensor | tuple[Tensor, Tensor]:
    """Linear, BatchNorm, LeakyReLU and max pool; see the head of this file for the formula.

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] with `batch` [M].
        weight, bias: [C_out, C_in] and [C_out] or None, those of `nn.Linear`.
        norm: its vectors have C_out entries.
        negative_slope: of the LeakyReLU (0: ReLU, 1: none); not negative, the activation must increase.
        noise: one draw of noise; what it drops is left out of the max.
        return_argmax: whether to return `(max, argmax)`.

    Returns:
        [B, C_out]; argmax is int64 [B, C_out], counted within the cloud for dense x and a row number otherwise, and -1
        where all points were dropped.

    Raises:
        ValueError: shapes do not fit, a decreasing activation, or training with a single row.
    """
    rows, ptr = to_rows(x, batch, batch_size)
    check_weight(weight, rows.shape[1], x, bias)
    check_increasing(negative_slope)
    if norm.training and not several_processes(norm.sync):
        check_rows(rows.shape[0])
    check_channels(weight.shape[0], norm, x)
    if not return_argmax and nothing_learns(norm, noise, rows, weight, bias):
        return linear_pool_eval(rows, weight, ptr, *scale_and_shift(norm, bias), negative_slope, False)[0]
    dtype = input_dtype(rows)
    sign, increasing = fold_sign(norm)
    rows, folded = rows.to(dtype).contiguous(), (sign.to(weight.dtype)[:, None] * weight).to(dtype)
    running = running_statistics(increasing, dtype)
    beta = fold_bias(norm, bias)
    with torch.autocast(x.device.type, enabled=False):  # the statistics' products stay in float32
        out, mean, var, count, argmax = _LinearNormMax.apply(
            *(rows, folded, increasing.gamma, beta, ptr, running.mean, running.var),
            *(norm.eps, negative_slope, norm.training, norm.sync, noise),
        )
    if norm.training:
        update_running(norm, Statistics(sign * mean, var, count), bias)
    return (out.to(dtype), local_idx(argmax, ptr, x)) if return_argmax else out.to(dtype)
