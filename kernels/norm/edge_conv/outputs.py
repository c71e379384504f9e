"""How the points are cut into blocks, and the empty output of forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator, cdiv

POINTS_PER_BLOCK = 32  # whose edges are summed in float32 before the blocks are merged in float64


def empty_forward(pq: Tensor, idx: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """`max_j y_ij` [M, C], its position among the neighbours [M, C] (k: none), S [M, C], means and m2s [P, C] of blocks."""
    (rows, k), channels = idx.shape, pq.shape[1] // 2
    dtype = accumulator(pq.dtype)
    maximum = pq.new_empty((rows, channels), dtype=dtype)
    argmax = pq.new_empty((rows, channels), dtype=torch.uint8 if k < 256 else torch.int32)
    means = pq.new_empty((cdiv(rows, POINTS_PER_BLOCK), channels), dtype=dtype)
    return maximum, argmax, torch.empty_like(maximum), means, torch.empty_like(means)
