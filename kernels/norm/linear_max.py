"""A linear map, BatchNorm, activation and max, from moments of the map's input: the algebra that operations share.

y = x W^T with the sign of gamma folded into W (`fold_sign`), z = scale * y + shift, out = a(max z) over the rows of a
segment. `linear_norm_max` has the formulas and where they come from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import gram, mm
from dropfold.kernels.norm.plain import activate


def moments_of_linear(weight: Tensor, mean_x: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C_out] of x W^T."""
    return weight @ mean_x, (mm(weight, covariance) * weight).sum(1).clamp(min=0)


def activate_maximum(maximum: Tensor, argmax: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    """a(z) at the max of y; 0 where all rows were dropped."""
    z = scale * maximum + shift
    return torch.where(argmax >= 0, activate(z, slope), 0)


def gradient_at_maximum(
    dout: Tensor, maximum: Tensor, argmax: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(g, sums)`: g = dout a'(z) at each max, and the sums [2, C_out] of g and g y_hat over them."""
    some = argmax >= 0
    g = torch.where(some, torch.where(scale * maximum + shift > 0, dout, slope * dout), 0).to(scale.dtype)
    y_hat = torch.where(some, (maximum - mean) * rstd, 0)
    return g, torch.stack([g.sum(0), (g * y_hat).sum(0)])


def dense_gradient(
    weight: Tensor, mean_x: Tensor, scale: Tensor, rstd: Tensor, c1: Tensor, c2: Tensor
) -> tuple[Tensor, Tensor]:
    """`(matrix, constant)`: what BatchNorm's statistics add to the gradient of each row is x `matrix` + `constant`, which is
    -(v + A (x - mean_x)) with the part of mean_x taken into the constant."""
    matrix = -gram(weight, (scale * c2 * rstd)[:, None] * weight)
    return matrix, -(matrix @ mean_x + weight.T @ (scale * c1))
