"""How the rows of a tensor are cut into blocks for `moments`, and its empty output."""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.backend.launch import accumulator, cdiv

ROWS_PER_BLOCK = 256  # whose sums are taken in float32 before the blocks are merged in float64


def empty_moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Means and centred sums of squares [P, C] of P blocks of the rows of y [M, C]."""
    means = y.new_empty((cdiv(y.shape[0], ROWS_PER_BLOCK), y.shape[1]), dtype=accumulator(y.dtype))
    return means, means.new_empty(means.shape)
