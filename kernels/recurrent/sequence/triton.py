"""Device code of the sequence kernels: elements of states, lengths, dropout, activations; and what all launches take."""

from __future__ import annotations

from typing import Any

import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import all_registers, precision
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.kron.triton import tile_sizes

ELEMENTS_PER_BLOCK = 512


def launch_options(
    a: Tensor, lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool
) -> dict[str, Any]:
    """The constants that all sequence kernels take."""
    return dict(
        REVERSE=int(reverse), DROPPED=keep_scale is not None, LENGTHS=lengths is not None, BLOCK=ELEMENTS_PER_BLOCK,
        **tile_sizes(a.dtype), PRECISION=precision(a), **all_registers(),
    )  # fmt: skip


def with_unit_stride(x: Tensor) -> Tensor:
    """x [T, B, C] as the kernels take it: any strides of T and B, and 1 of C."""
    return x if x.stride(2) == 1 else x.contiguous()


@jit
def state_block(e, first, stop, H: tl.constexpr, BLOCK: tl.constexpr):
    """Row, unit and mask of elements e .. e + BLOCK - 1 of the states [stop - first, H] that a program holds."""
    o = e + tl.arange(0, BLOCK)
    b = first + o // H
    return b, o % H, b < stop


@jit
def active_mask(p_lengths, b, t, mask, LENGTHS: tl.constexpr):
    """The elements of `mask` whose row b is active in step t."""
    if LENGTHS:
        mask = mask & (t < tl.load(p_lengths + b, mask=mask, other=0))
    return mask


@jit
def drop_units(h, p_keep_scale, o_s, mask, DROPPED: tl.constexpr):
    """h, or its gradient, times the keep scale."""
    if DROPPED:
        h *= tl.load(p_keep_scale + o_s, mask=mask, other=0.0)
    return h


@jit
def load(p, mask):
    """In float32; 0 outside the mask."""
    return tl.load(p, mask=mask, other=0.0).to(tl.float32)


@jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@jit
def tanh(x):
    return 2 / (1 + tl.exp(-2 * x)) - 1
