"""Float32 products of matrices on the CPU, through the library that uses the processor's full width.

ATen hands float32 products to MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, which ships with torch as
well, uses AVX-512 on all: twice as fast on an AMD EPYC. There, large enough float32 products go to oneDNN, as a linear layer
and, where the sum runs over the rows, as the weight gradient of a 1 x 1 convolution. Everything else is ATen's.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IMAGES = 16  # a convolution splits its sum over these; with fewer, torch may not take it to oneDNN
SMALL = 1 << 21  # multiply-adds below which a call costs more than it saves
PIECE = 1 << 20  # numbers of x of which the sum over the rows is taken at a time: 4 MiB stay in the cache
KEPT = 1 << 22  # numbers of a type that a thread may keep for its next call
FEW = 1024  # rows below which the sum over them is as fast in ATen
COORDINATES = 8  # channels up to which inputs are taken for coordinates, which autocast leaves in float32


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of matrix products with x: its own, or autocast's, which leaves float64 as it is (torch's does, too)."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


@functools.cache
def wide() -> bool:
    """Whether oneDNN is the faster library here: a processor with AVX-512 that is not Intel's."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        with open("/proc/cpuinfo") as file:
            return "GenuineIntel" not in file.read(4096)
    except OSError:
        return False


def _taken(x: Tensor, y: Tensor, macs: int) -> bool:
    """Whether a product goes to oneDNN. In a compiled graph the compiler chooses."""
    if torch.compiler.is_compiling():
        return False
    return x.is_cpu and x.dtype == y.dtype == torch.float32 and macs >= SMALL and wide()


def mm(x: Tensor, y: Tensor) -> Tensor:
    """x [m, k] y [k, n]."""
    if not _taken(x, y, x.numel() * y.shape[1]):
        return x @ y
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(y.T), None, "none", [], "")


def _dense(x: Tensor) -> Tensor:
    """x, or where its rows (or columns) do not follow one another a copy: for those oneDNN has nothing but its reference."""
    return x if x.is_contiguous() or x.T.is_contiguous() else x.contiguous()


def gram(x: Tensor, y: Tensor) -> Tensor:
    """x^T y [k, n], the sum over the rows of x [m, k] and y [m, n]."""
    k, n = x.shape[1], y.shape[1]
    whole = len(x) // IMAGES * IMAGES
    if whole < FEW or not _taken(x, y, x.numel() * n):
        return mm(x.T, y)
    rows = max(FEW, PIECE // k // IMAGES * IMAGES)
    buffer, weight = scratch(min(rows, whole) * k).view(-1, k), x.new_empty((n, 1, 1, k)).permute(0, 3, 1, 2)
    found = x.new_zeros((n, k))
    for start in range(0, whole, rows):
        stop = min(start + rows, whole)
        # The convolution walks along columns, which takes twice as long over memory that lies far apart.
        pixels = _images(buffer[: stop - start].copy_(x[start:stop])), _images(y[start:stop])
        options = weight, [0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
        found += torch.ops.aten.convolution_backward(*pixels[::-1], *options)[1].reshape(n, k)
    return found.T if whole == len(x) else found.T.addmm(x[whole:].T, y[whole:])


_of_thread = threading.local()


def scratch(numbers: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that stays this thread's, unless it is much: fresh megabytes cost as much time as a product over them."""
    if numbers > KEPT:
        return torch.empty(numbers, dtype=dtype)
    held: dict[torch.dtype, Tensor] = vars(_of_thread).setdefault("scratch", {})
    if dtype not in held or len(held[dtype]) < numbers:
        held[dtype] = torch.empty(max(numbers, PIECE), dtype=dtype)
    return held[dtype][:numbers]


def _images(rows: Tensor) -> Tensor:
    """Rows as the pixels of images, in the memory that they are in."""
    return rows.reshape(IMAGES, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = mm(x, weight.T)
        return y if bias is None else y.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        dweight = None
        if need_weight:  # in the weight's own memory order, which may be that of its transpose
            dweight = gram(x, dy).T if weight.T.is_contiguous() else gram(dy, x)
        return mm(dy, weight) if need_x else None, dweight, dy.sum(0) if need_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, x [..., m], weight [n, m], bias [n], through the faster library of this processor."""
    if not _taken(x, weight, x.numel() * weight.shape[0]) or torch.is_autocast_enabled("cpu"):
        return torch.nn.functional.linear(x, weight, bias)
    return _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
