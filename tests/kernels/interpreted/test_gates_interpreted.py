"""The ledger counts what a kernel moves."""

from __future__ import annotations

import torch
import triton.language as tl

from benchmarks.gates import ledger
from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.triton import jit


@jit
def _twice(x):
    return 2 * x


@jit
def _twice_fwd_kernel(p_x, p_s, p_y, n, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(p_s)
    tl.store(p_y + o, s * _twice(tl.load(p_x + o, mask=o < n, other=0.0)), mask=o < n)


@jit
def _reversed_twice_fwd_kernel(p_x, p_y, p_z, FENCED: tl.constexpr, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    tl.store(p_y + BLOCK - 1 - o, tl.load(p_x + o))
    if FENCED:
        tl.debug_barrier()
    tl.store(p_z + BLOCK - 1 - o, tl.load(p_y + o))


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


def test_a_load_of_what_other_threads_have_just_stored_is_seen():
    x, y, z = torch.randn(3, 32)
    for fenced, loads in ((True, 0), (False, 32)):
        book = ledger(lambda: _reversed_twice_fwd_kernel[(1,)](x, y, z, FENCED=fenced, BLOCK=32))  # noqa: B023
        assert book.unfenced_loads == loads
    assert torch.equal(z, x)
