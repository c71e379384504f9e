"""The compile-only gate reads what the compilers say, spills included."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

from benchmarks.gates import TARGETS, compile_only, launches
from dropfold.kernels.backend.triton import jit


@jit
def _centre_fwd_kernel(p_x, p_y, n, BLOCK: tl.constexpr, KEPT: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(p_x + o[:, None] * n + tl.arange(0, KEPT)[None, :])
    y = x - tl.sum(x)  # the sum needs all of x before the first store
    tl.store(p_y + o[:, None] * n + tl.arange(0, KEPT)[None, :], y)


def launch(block, kept, num_warps):
    _centre_fwd_kernel[(1,)](
        torch.empty(1), torch.empty(1), kept, BLOCK=block, KEPT=kept, num_warps=num_warps
    )


@pytest.mark.parametrize("target", TARGETS)
def test_a_small_kernel_does_not_spill(target):
    (found,) = compile_only(launches(launch, 32, 16, 4), [target])
    assert found.kernel == "_centre_fwd_kernel"
    assert 0 < found.registers <= 255
    assert found.spills == 0
    assert found.vector_load_bytes >= 8


def test_a_kernel_with_too_much_in_flight_is_seen_to_spill():
    (found,) = compile_only(launches(launch, 256, 64, 1), ["sm_90"])
    assert found.spills > 0
