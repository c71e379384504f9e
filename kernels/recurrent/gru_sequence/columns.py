"""The columns of some gates of U [H, 3 H], as factors: the gate is the slowest part of the first output mode."""

from __future__ import annotations

from torch import Tensor


def gate_columns(a: Tensor, c: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """A and C of the columns start H .. stop H: views of a and c."""
    if a.shape[2] % 3 == 0:
        third = a.shape[2] // 3
        return a[:, :, start * third : stop * third], c
    third = c.shape[2] // 3
    return a, c[:, :, start * third : stop * third]


def split_columns(
    a: Tensor, c: Tensor, reset_before: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(A, C) of the columns that h' is multiplied by, and of those of n.

    If the reset stands before the product, n's columns are multiplied by r h', and h' meets those of r and z alone.
    """
    return gate_columns(a, c, 0, 2) if reset_before else (a, c), gate_columns(a, c, 2, 3)
