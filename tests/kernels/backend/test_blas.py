"""Products inside compiled loops, and which chain of a tile takes them."""

from __future__ import annotations

import itertools
import os
import sys

import pytest
import torch

from dropfold.kernels.backend import blas as _blas
from dropfold.kernels.backend import gemm as _gemm
from dropfold.kernels.backend.numba import launch
from dropfold.kernels.group_mlp_max import chain, compiled_chain
from dropfold.kernels.group_mlp_max.entries import Entries, Source

TYPES = torch.float32, torch.float64


def entries(dtype: torch.dtype) -> Entries:
    whole = torch.arange(4)
    return Entries(torch.randn(4, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype), torch.tensor([0, 2, 4]), whole,
                   torch.tensor([0, 0, 1, 1], dtype=torch.int32), torch.empty(0, dtype=dtype))  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("old", [0, 1])
def test_products_of_all_kinds_are_torchs(dtype: torch.dtype, old: int) -> None:
    if not _blas.routine(dtype):
        pytest.skip("compiled loops have no product here")
    for m, k, n in ((1, 1, 1), (7, 5, 3), (64, 33, 130), (7, 0, 3), (7, 5, 0), (0, 5, 3)):
        for x_turned, y_turned in itertools.product((False, True), repeat=2):
            x = torch.randn((k, m) if x_turned else (m, k)).to(dtype)
            y = torch.randn((n, k) if y_turned else (k, n)).to(dtype)
            before = torch.randn(m, n).to(dtype)
            right = (x.T if x_turned else x) @ (y.T if y_turned else y) + old * before
            out = before.clone()
            if not old:
                out.fill_(torch.nan)  # memory as it was found
            launch(_blas.product, _blas.routine(dtype), x, x_turned, y, y_turned, old, out)
            torch.testing.assert_close(out, right)


@pytest.mark.skipif(
    sys.platform != "linux"
    or not torch.backends.mkl.is_available()
    or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0",
    reason="another BLAS, or nothing is compiled",
)
@pytest.mark.parametrize("dtype", TYPES)
def test_torchs_blas_is_found_and_taken(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_chain, "wide", lambda: False)
    source = Source(entries(dtype), [torch.randn(2, 3, dtype=dtype)], [], [])
    assert type(compiled_chain.choose_chain(source)) is compiled_chain.CompiledChain


def test_half_weights_and_a_processor_for_onednn_take_the_passes_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = Source(entries(torch.float32), [torch.randn(2, 3).bfloat16()], [], [])
    assert type(compiled_chain.choose_chain(half)) is chain.Chain
    assert _blas.routine(torch.bfloat16) == 0
    monkeypatch.setattr(compiled_chain, "wide", lambda: True)
    whole = Source(entries(torch.float32), [torch.randn(2, 3)], [], [])
    assert type(compiled_chain.choose_chain(whole)) is chain.Chain


def test_arrays_whose_rows_lie_apart_or_of_two_types_are_refused() -> None:
    numba = pytest.importorskip("numba")
    if not _blas.routine(torch.float32):
        pytest.skip("compiled loops have no product here")
    x = torch.randn(4, 4)
    for wrong in (x[:, :2], x[:, :2].contiguous().double()):
        with pytest.raises(numba.core.errors.TypingError, match="contiguous"):
            launch(_blas.product, _blas.routine(torch.float32), wrong, False, x[:2], False, 0, x.clone())


def test_much_memory_is_not_kept_and_types_have_their_own() -> None:
    held = _gemm.scratch(10)
    assert _gemm.scratch(10).data_ptr() == held.data_ptr()
    assert _gemm.scratch(10, torch.float64).data_ptr() != held.data_ptr()
    assert len(_gemm.scratch(_gemm.MAX_SCRATCH_NUMBERS + 1)) == _gemm.MAX_SCRATCH_NUMBERS + 1
    assert _gemm.scratch(10).data_ptr() == held.data_ptr()
