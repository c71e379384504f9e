"""The fused passes of BatchNorm, activation and noise over a tensor: one to apply them, two for the gradient.

With `z = scale * y + shift` (norm/batch_norm), `a(z) = z` for z > 0 and `slope * z` otherwise, and keep scale f:

    norm_apply   out = f a(z)
    norm_sums    dz = dout f a'(z);  sum dz and sum dz y_hat, a channel;  dz itself if asked for
    norm_grad    dy = scale * (dz - mean(dz) - y_hat * mean(dz y_hat))

Infinities and NaN are as in the plain form; in evaluation the infinities have the gradient of their side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator, cdiv
from dropfold.kernels.backend.operator import operator

ROWS_PER_SUM = 256  # which are summed in float32; the partial sums are added in float64
# `NoiseArguments` in an operator's schema.
NOISE = "int mode, Tensor keep_scale, Tensor p, Tensor noise_scale, Tensor seed"


def empty_sums(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float,
    keep: bool, *_: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Room for dz (no rows unless `keep`), and for the sums of dz and dz y_hat of each block, [blocks, 2, C]."""
    dtype = accumulator(y.dtype)
    dz = y.new_empty(y.shape if keep else (0, y.shape[1]), dtype=dtype)
    return dz, y.new_empty((cdiv(y.shape[0], ROWS_PER_SUM), 2, y.shape[1]), dtype=dtype)


norm_apply = operator(
    f"norm_apply(Tensor y, Tensor scale, Tensor shift, float slope, {NOISE}) -> Tensor",
    implementations=__package__,
    fake=lambda y, *_: torch.empty_like(y),
)
_norm_sums = operator(
    "norm_sums(Tensor dout, Tensor y, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, float slope, bool keep, "
    f"{NOISE}) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_sums,
)
norm_grad = operator(
    "norm_grad(Tensor dout, Tensor y, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, Tensor mean_dz, "
    f"Tensor mean_dz_hat, float slope, {NOISE}) -> Tensor",
    implementations=__package__,
    fake=lambda dout, y, *_: torch.empty_like(y),
)


def norm_sums(*args: Any) -> tuple[Tensor, Tensor]:
    """`(dz [M, C] or empty, sums [2, C] of dz and dz y_hat)`: the partial sums of blocks, added in float64."""
    dz, blocks = _norm_sums(*args)
    return dz, blocks.sum(0, dtype=torch.float64).to(blocks.dtype)
