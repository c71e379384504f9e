"""The ledger counts what a kernel moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.gates import ledger
from kernels._triton import cdiv, jit

if TYPE_CHECKING:
    import triton.language as tl


@jit
def _twice(x):
    return 2 * x


@jit
def _twice_fwd_kernel(p_x, p_s, p_y, n, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(p_s)
    tl.store(p_y + o, s * _twice(tl.load(p_x + o, mask=o < n, other=0.0)), mask=o < n)


def launch(x, s):
    y = torch.empty_like(x)
    _twice_fwd_kernel[(cdiv(x.numel(), 64),)](x, s, y, x.numel(), BLOCK=64)
    return y


def test_the_ledger_counts_masked_bytes_once():
    x, s = torch.randn(100), torch.tensor(3.0)
    book = ledger(launch, x, s)
    torch.testing.assert_close(book.result, 6 * x)
    assert book.loaded_bytes == 100 * 4 + 2 * 4  # the rows, and one scalar for each of two programs
    assert book.stored_bytes == 100 * 4
    assert book.by_kernel == {"_twice_fwd_kernel": book.bytes}
