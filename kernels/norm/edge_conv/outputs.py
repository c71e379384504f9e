"""What the implementations of edge_conv share: constants and empty outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator, cdiv

BLOCK = 32  # points whose edges are summed in float32 before the sums are merged in float64


def _fake_gather(pq: Tensor, idx: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """`max_j y_ij [M, C], its position [M, C] (k: none), S [M, C], means and m2s [P, C] of blocks of points`."""
    (rows, k), channels = idx.shape, pq.shape[1] // 2
    dtype = accumulator(pq.dtype)
    top = pq.new_empty((rows, channels), dtype=dtype)
    where = pq.new_empty((rows, channels), dtype=torch.uint8 if k < 256 else torch.int32)
    blocks = pq.new_empty((cdiv(rows, BLOCK), channels), dtype=dtype)
    return top, where, torch.empty_like(top), blocks, torch.empty_like(blocks)
