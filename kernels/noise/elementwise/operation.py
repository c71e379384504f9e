"""The passes over a tensor that BatchNorm, activation and noise share, fused: one to apply them, two for the gradient.

With `z = scale * y + shift` (batch_norm.py), `a(z) = z` for z > 0 and `slope * z` otherwise, and noise factor f:

    norm_apply   out = f a(z)
    norm_sums    dz = dout f a'(z);  sum dz and sum dz y_hat, a channel;  dz itself if asked for
    norm_grad    dy = scale * (dz - mean(dz) - y_hat * mean(dz y_hat))

A y of -inf is a maximum over nothing: its out and its gradient are 0. NaN goes through.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw.operation import Noise, draw
from dropfold.kernels.noise.elementwise.outputs import _fake_sums

NOISE = "int mode, Tensor factor, Tensor rate, Tensor noise_scale, Tensor seed"


norm_apply = operator(
    f"norm_apply(Tensor y, Tensor scale, Tensor shift, float slope, {NOISE}) -> Tensor",
    implementations=__package__,
    fake=lambda y, *_: torch.empty_like(y),
)


_norm_sums = operator(
    "norm_sums(Tensor dout, Tensor y, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, float slope, bool keep, "
    f"{NOISE}) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=_fake_sums,
)


norm_grad = operator(
    "norm_grad(Tensor dout, Tensor y, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, Tensor mean_dz, "
    f"Tensor mean_dz_hat, float slope, {NOISE}) -> Tensor",
    implementations=__package__,
    fake=lambda dout, y, *_: torch.empty_like(y),
)


def norm_sums(*args: Any) -> tuple[Tensor, Tensor]:
    """`(dz [M, C] or empty, sums [2, C] of dz and dz y_hat)`: the blocks' sums, added in float64."""
    dz, blocks = _norm_sums(*args)
    return dz, blocks.sum(0, dtype=torch.float64).to(blocks.dtype)


class _Drop(torch.autograd.Function):
    """x times the factor of a noise; the gradient is the same map, drawn again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
        ctx.save_for_backward(ptr)
        ctx.noise = noise
        return _multiply(x, ptr, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (ptr,) = ctx.saved_tensors
        return _multiply(dout.contiguous(), ptr, ctx.noise), None, None


def _multiply(x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
    one = torch.ones(x.shape[1], dtype=accumulator(x.dtype), device=x.device)
    return norm_apply(x, one, torch.zeros_like(one), 1.0, *draw(noise, ptr, x.shape[0]))


def drop(x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
    """Rows x [M, C] times the factors of `noise`."""
    if not x.is_floating_point():
        raise ValueError(
            f"noise scales what it keeps, so x must be of a floating-point type; got {describe(x)}."
        )
    return _Drop.apply(x.contiguous(), ptr, noise)
