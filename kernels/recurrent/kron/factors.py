"""The factors A [S, p, u] and C [S, q, v] of W = sum_s A_s (x) C_s [p q, u v]: what fits, what it costs, and W itself."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_floating, check_tensors


def check_kron(a: Tensor, c: Tensor) -> tuple[int, int]:
    """Refuse factors that do not fit; returns the shape of W."""
    check_floating(a=a, c=c)
    if a.dim() != 3 or c.dim() != 3 or a.shape[0] != c.shape[0]:
        raise ValueError(
            "a must be [S, p, u] and c [S, q, v] with one S, the terms of sum_s a_s (x) c_s; got a "
            f"{describe(a)} and c {describe(c)}."
        )
    return a.shape[1] * c.shape[1], a.shape[2] * c.shape[2]


def check_input(x: Tensor, columns: int) -> None:
    """Refuse what cannot be multiplied by a matrix of so many rows."""
    check_tensors(x=x)
    if x.dim() < 1 or x.shape[-1] != columns or 0 in x.shape:
        raise ValueError(f"x must be [..., {columns}], with a row at least; got {describe(x)}.")
    if not x.is_floating_point() and x.dtype != torch.uint8:
        raise TypeError(f"x must be floating point or uint8; got {describe(x)}.")


def needs_scaling(x: Tensor, scale: float, shift: float) -> bool:
    """Whether x differs from scale x + shift as a floating point number."""
    return not x.is_floating_point() or scale != 1 or shift != 0


def reconstruct(a: Tensor, c: Tensor) -> Tensor:
    """W, by its definition."""
    return sum((torch.kron(a_s, c_s) for a_s, c_s in zip(a, c)), start=a.new_zeros(()))


def is_dense(a: Tensor) -> bool:
    """Whether A is [1, 1, 1]: W is C times a number."""
    return a.numel() == 1


def multiply_adds(a: Tensor, c: Tensor, right: bool) -> int:
    """Multiply-adds of x W for one x, contracting with C first (`right`) or with A first."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    return s * (p * q * v + p * u * v if right else p * q * u + u * q * v)


def right_first(a: Tensor, c: Tensor) -> bool:
    """Whether contracting with C first is the cheaper order."""
    return multiply_adds(a, c, True) <= multiply_adds(a, c, False)
