"""Float32 matrix products on the CPU, through the library that uses the full width of the processor's registers.

ATen hands float32 products to MKL, which uses no more than AVX2 on processors that are not Intel's. oneDNN, which torch
ships too, uses AVX-512 on all: twice as fast on an AMD EPYC. On such processors large float32 products go to oneDNN: as a
linear layer and, if the sum runs over the rows, as the weight gradient of a 1 x 1 convolution. ATen computes all others.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.inputs import check_product

IMAGES = 16  # of the convolution, which splits its sum over them; with fewer, torch may not use oneDNN
MIN_MULTIPLY_ADDS = 1 << 21  # below this, a call of oneDNN costs more than it saves
MIN_ROWS = 1024  # below this, ATen is as fast in a sum over rows
NUMBERS_PER_PIECE = 1 << 20  # of x in a sum over rows: 4 MiB stay in the cache
MAX_SCRATCH_NUMBERS = 1 << 22  # of one type, which a thread may keep for its next call
COORDINATES = 8  # inputs of at most this many channels count as coordinates, which autocast leaves in float32


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of matrix products with x: its own, or autocast's. float64 stays float64, as in torch's autocast."""
    if x.dtype != torch.float64 and not x.is_meta and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def input_dtype(x: Tensor) -> torch.dtype:
    """The type of matrix products with points x [.., C]: `product_dtype`, but coordinates stay in theirs."""
    return product_dtype(x) if x.shape[-1] > COORDINATES else x.dtype


@functools.cache
def wide() -> bool:
    """Whether oneDNN is the faster library on this processor: it has AVX-512 and is not Intel's."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        with open("/proc/cpuinfo") as file:
            return "GenuineIntel" not in file.read(4096)
    except OSError:
        return False


def _use_onednn(x: Tensor, y: Tensor, multiply_adds: int) -> bool:
    """Whether a product goes to oneDNN. In a compiled graph the compiler chooses."""
    if torch.compiler.is_compiling():
        return False
    return x.is_cpu and x.dtype == y.dtype == torch.float32 and multiply_adds >= MIN_MULTIPLY_ADDS and wide()


def mm(x: Tensor, y: Tensor) -> Tensor:
    """x [m, k] y [k, n]."""
    if not _use_onednn(x, y, x.numel() * y.shape[1]):
        return x @ y
    return torch.ops.mkldnn._linear_pointwise(_make_dense(x), _make_dense(y.T), None, "none", [], "")


def _make_dense(x: Tensor) -> Tensor:
    """x, or a copy if neither its rows nor its columns are contiguous: for those oneDNN runs its slow reference code."""
    return x if x.is_contiguous() or x.T.is_contiguous() else x.contiguous()


def gram(x: Tensor, y: Tensor) -> Tensor:
    """x^T y [k, n], the sum over the rows of x [m, k] and y [m, n]."""
    k, n = x.shape[1], y.shape[1]
    whole = len(x) // IMAGES * IMAGES
    if whole < MIN_ROWS or not _use_onednn(x, y, x.numel() * n):
        return mm(x.T, y)
    rows = max(MIN_ROWS, NUMBERS_PER_PIECE // k // IMAGES * IMAGES)
    buffer, weight = scratch(min(rows, whole) * k).view(-1, k), x.new_empty((n, 1, 1, k)).permute(0, 3, 1, 2)
    total = x.new_zeros((n, k))
    for start in range(0, whole, rows):
        stop = min(start + rows, whole)
        # The convolution reads column by column, which takes twice as long if x is not in the cache.
        pixels = _images(buffer[: stop - start].copy_(x[start:stop])), _images(y[start:stop])
        options = weight, [0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
        total += torch.ops.aten.convolution_backward(*pixels[::-1], *options)[1].reshape(n, k)
    return total.T if whole == len(x) else total.T.addmm(x[whole:].T, y[whole:])


_of_thread = threading.local()


def scratch(numbers: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that a thread reuses, up to MAX_SCRATCH_NUMBERS: fresh megabytes cost as much time as a product over them."""
    if numbers > MAX_SCRATCH_NUMBERS:
        return torch.empty(numbers, dtype=dtype)
    held: dict[torch.dtype, Tensor] = vars(_of_thread).setdefault("scratch", {})
    if dtype not in held or len(held[dtype]) < numbers:
        held[dtype] = torch.empty(max(numbers, NUMBERS_PER_PIECE), dtype=dtype)
    return held[dtype][:numbers]


def _images(rows: Tensor) -> Tensor:
    """A view of rows as the pixels of IMAGES images."""
    return rows.reshape(IMAGES, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = mm(x, weight.T)
        return y if bias is None else y.add_(bias)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        dweight = None
        if need_weight:  # in the memory order of the weight, which may be a transposed view
            dweight = gram(x, dy).T if weight.T.is_contiguous() else gram(dy, x)
        return mm(dy, weight) if need_x else None, dweight, dy.sum(0) if need_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, x [..., m], weight [n, m], bias [n], through the faster library of this processor."""
    check_product(x, weight, bias)
    if not _use_onednn(x, weight, x.numel() * weight.shape[0]) or torch.is_autocast_enabled("cpu"):
        return torch.nn.functional.linear(x, weight, bias)
    return _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
