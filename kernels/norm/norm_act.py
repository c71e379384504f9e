r"""BatchNorm, activation and noise in one pass.

    out = f * a(gamma * (y - mean) / sqrt(var + eps) + beta)

over the rows of y [M, C], with a(z) = z for z > 0 and negative_slope * z otherwise (0: ReLU, 1: none), and the keep scale f
of a `Noise` (kernels/noise/draw; 1 without). In training, mean and biased variance are the batch's and the running
buffers move as `nn.BatchNorm1d`'s; in evaluation they are the running buffers. The normalised values are not stored:
forward reads y twice and writes out once, backward reads dout and y twice and writes dy once, drawing f again.

    dz = dout f a'(z),   dy = gamma / sqrt(var + eps) * (dz - mean(dz) - y_hat mean(dz y_hat)),
    dgamma = sum dz y_hat,   dbeta = sum dz

Noise *before* a BatchNorm makes its running statistics those of noisy values (variance shift: Li et al. 2019);
`dropfold.models.reestimate_batch_norm` repairs a network trained so.

Sources: Ioffe & Szegedy 2015 (BatchNorm); Srivastava et al. 2014 (the scaling).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import linear
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.inputs import check_product
from dropfold.kernels.noise.draw import Noise, draw, keep_scale
from dropfold.kernels.noise.elementwise.operation import norm_apply, norm_grad, norm_sums
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    affine,
    check_channels,
    norm_gradients,
    statistics,
)
from dropfold.kernels.norm.evaluation.operation import linear_act_eval, nothing_learns, scale_and_shift
from dropfold.kernels.norm.plain import activate, normalize
from dropfold.kernels.points.clouds import to_rows


def reference(
    y: Tensor,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
) -> Tensor:
    """The specification of `norm_act` in torch: the scales of the noise are stored, autograd has the gradients; any type and
    device."""
    rows, ptr = to_rows(y, batch, batch_size)
    a = activate(normalize(rows, norm), negative_slope)
    return (keep_scale(noise, ptr, *a.shape).to(a.dtype) * a).view_as(y)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, count: Tensor,
        ptr: Tensor, eps: float, slope: float, training: bool, sync: bool, noise: Noise | None,
    ) -> Tensor:  # fmt: skip
        scale, shift, rstd = affine(gamma, beta, mean, var, eps)
        ctx.save_for_backward(y, gamma, scale, shift, mean, rstd, count, ptr)
        ctx.options = (slope, training, sync, noise)
        return norm_apply(y, scale, shift, slope, *draw(noise, ptr, y.shape[0]))

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        y, gamma, scale, shift, mean, rstd, count, ptr = ctx.saved_tensors
        slope, training, sync, noise = ctx.options
        drawn = draw(noise, ptr, y.shape[0])
        dout = dout.contiguous()
        _, sums = norm_sums(dout, y, scale, shift, mean, rstd, slope, False, *drawn)
        dbeta, dgamma, mean_dz, mean_dz_y_hat = norm_gradients(sums, count, training, sync)
        dy = norm_grad(dout, y, scale, shift, mean, rstd, mean_dz, mean_dz_y_hat, slope, *drawn)
        return dy, dgamma.to(gamma.dtype), dbeta.to(gamma.dtype), *[None] * 9


def norm_act(
    y: Tensor,
    norm: BatchNorm,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
) -> Tensor:
    """BatchNorm over all points, LeakyReLU and noise; see the head of this file for the formula.

    Args:
        y: dense [B, N, C], or rows [M, C] with `batch` [M] (clouds matter to noise alone).
        norm: its vectors have C entries.
        negative_slope: of the LeakyReLU (0: ReLU, 1: none).
        noise: one draw of DropFeat, DropPoint or DropCluster, or None.

    Returns:
        A tensor like y.

    Raises:
        ValueError: shapes do not fit, or training with a single row.
    """
    rows, ptr = to_rows(y, batch, batch_size)
    check_channels(rows.shape[1], norm, y)
    rows = rows.contiguous()
    out = _NormAct.apply(
        *(rows, norm.gamma, norm.beta, *statistics(rows, norm), ptr),
        *(norm.eps, negative_slope, norm.training, norm.sync, noise),
    )
    return out.view_as(y)


def linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: BatchNorm, **options: Any
) -> Tensor:
    """The specification of `linear_norm_act` in torch, with the same options."""
    return reference(torch.nn.functional.linear(x, weight, bias), norm, **options)


def linear_norm_act(
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
    """`norm_act` of x W^T + b. Where nothing learns the two are one pass (kernels/norm/evaluation).

    Args:
        x: dense [B, N, C_in], or rows [M, C_in] with `batch` [M].
        weight, bias: [C_out, C_in] and [C_out] or None, those of `nn.Linear`.
        norm, negative_slope, noise: as those of `norm_act`.

    Returns:
        [B, N, C_out] or [M, C_out].

    Raises:
        ValueError: shapes or types do not fit, or training with a single row.
    """
    check_product(x, weight, bias)
    if nothing_learns(norm, noise, x, weight, bias):
        if batch is not None or x.dim() not in (2, 3):
            to_rows(x, batch, batch_size)  # which refuses what does not fit
        check_channels(weight.shape[0], norm, x)
        rows = x.flatten(0, -2)
        z = linear_act_eval(rows, weight, *scale_and_shift(norm, bias), negative_slope)
        return z.view(*x.shape[:-1], z.shape[1])
    y = linear(x, weight, bias)
    return norm_act(y, norm, batch=batch, batch_size=batch_size, negative_slope=negative_slope, noise=noise)
