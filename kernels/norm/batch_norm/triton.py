"""The moments of a tensor's columns in Triton."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.norm.batch_norm.operation import ROWS_PER_BLOCK, empty_moments


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    means, m2s = empty_moments(y)
    rows, channels = y.shape
    block_c = min(32, max(4, next_power_of_2(channels)))
    grid = (means.shape[0], cdiv(channels, block_c))
    _moments_fwd_kernel[grid](y, means, m2s, rows, channels, ROWS=ROWS_PER_BLOCK, BLOCK_C=block_c)
    return means, m2s


@jit
def _moments_fwd_kernel(p_y, p_means, p_m2s, rows, channels, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    i_block = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_m = i_block * ROWS + tl.arange(0, ROWS)
    inside = (o_m[:, None] < rows) & (o_c[None, :] < channels)
    y = tl.load(p_y + o_m[:, None] * channels + o_c[None, :], mask=inside, other=0.0).to(tl.float32)
    n = tl.minimum(rows - i_block * ROWS, ROWS).to(tl.float32)
    mean = tl.sum(y, axis=0) / n
    d = tl.where(inside, y - mean[None, :], 0.0)
    o = i_block * channels + o_c
    tl.store(p_means + o, mean, mask=o_c < channels)
    tl.store(p_m2s + o, tl.sum(d * d, axis=0), mask=o_c < channels)
