"""x times a noise's keep scale, the one pass behind DropFeat, DropPoint and DropCluster.

    out_(m, c) = s_(m, c) x_(m, c),   s = 0 where the noise drops, else its scale (kernels/noise/draw)

The gradient is the same map, drawn again from the seed: no mask is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.inputs import check_tensors
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.noise.draw import Noise, draw, keep_scale
from dropfold.kernels.noise.elementwise.operation import norm_apply
from dropfold.kernels.points.clouds import to_rows


def reference(
    x: Tensor, noise: Noise | None, *, batch: Tensor | None = None, batch_size: int | None = None
) -> Tensor:
    """`drop` in plain torch, for any type and device, with a mask that is stored: its specification."""
    if noise is None:
        return x
    rows, ptr = to_rows(x, batch, batch_size)
    return (rows * keep_scale(noise, ptr, *rows.shape).to(x.dtype)).view_as(x)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
        ctx.save_for_backward(ptr)
        ctx.noise = noise
        return _multiply(x, ptr, noise)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (ptr,) = ctx.saved_tensors
        return _multiply(dout.contiguous(), ptr, ctx.noise), None, None


def _multiply(x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
    one = torch.ones(x.shape[1], dtype=accumulator(x.dtype), device=x.device)
    return norm_apply(x, one, torch.zeros_like(one), 1.0, *draw(noise, ptr, x.shape[0]))


def drop(x: Tensor, noise: Noise, *, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
    """x, dense [B, N, C] or rows [M, C] with `batch` [M], times the keep scale of `noise`."""
    check_tensors(x=x)
    if not x.is_floating_point():
        raise ValueError(
            f"noise scales what it keeps, so x must be of a floating-point type; got {describe(x)}."
        )
    rows, ptr = to_rows(x, batch, batch_size)
    return _Drop.apply(rows.contiguous(), ptr, noise).view_as(x)
