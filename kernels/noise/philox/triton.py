"""Philox in Triton: numbers in a row, or at any indices."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.triton import jit


@jit
def uniform_block(seed, start, BLOCK: tl.constexpr):
    """Numbers start .. start + BLOCK - 1 with `start` a multiple of 4: one Philox call for four numbers."""
    counter = (start >> 2) + tl.arange(0, BLOCK // 4).to(tl.int64)
    c0, c1, c2, c3 = tl.randint4x(seed, counter)
    words = tl.join(tl.join(c0, c2), tl.join(c1, c3)).reshape(BLOCK)
    return tl.uint_to_uniform_float(words)


@jit
def uniform_gather(seed, index):
    """Numbers at any indices (int64): one Philox call for each."""
    c0, c1, c2, c3 = tl.randint4x(seed, index >> 2)
    lane = index & 3
    word = tl.where(lane == 0, c0, tl.where(lane == 1, c1, tl.where(lane == 2, c2, c3)))
    return tl.uint_to_uniform_float(word)


@jit
def _uniform_fwd_kernel(p_seed, p_out, n, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    o = start + tl.arange(0, BLOCK)
    tl.store(p_out + o, uniform_block(tl.load(p_seed), start, BLOCK), mask=o < n)


def uniform(seed: Tensor, n: int) -> Tensor:
    out = torch.empty(n, device=seed.device)
    _uniform_fwd_kernel[(cdiv(n, 1024),)](seed, out, n, BLOCK=1024)
    return out
