"""Float32 products of matrices on the CPU, through the library that uses the processor's full width.

ATen hands float32 products to MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, which ships with torch as
well, uses AVX-512 on all: twice as fast on an AMD EPYC. There, large enough float32 products go to oneDNN, as a linear layer
and, where the sum runs over the rows, as the weight gradient of a 1 x 1 convolution. Everything else is ATen's.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

IMAGES = 16  # a convolution splits its sum over these; with fewer, torch may not take it to oneDNN
SMALL = 1 << 14  # multiply-adds below which a call costs more than it saves
FEW = 1024  # rows below which the sum over them is as fast in ATen


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
    """Whether a product goes to oneDNN."""
    return x.is_cpu and x.dtype == y.dtype == torch.float32 and macs >= SMALL and wide()


def mm(x: Tensor, y: Tensor) -> Tensor:
    """x [m, k] y [k, n]."""
    if not _taken(x, y, x.numel() * y.shape[1]):
        return x @ y
    return torch.ops.mkldnn._linear_pointwise(x, y.T, None, "none", [], "")


def gram(x: Tensor, y: Tensor) -> Tensor:
    """x^T y [k, n], the sum over the rows of x [m, k] and y [m, n]."""
    rows = len(x) // IMAGES * IMAGES
    if rows < FEW or not _taken(x, y, x.numel() * y.shape[1]):
        return x.T @ y
    k, n = x.shape[1], y.shape[1]
    images, gradient = (
        # Rows as pixels of images, in the memory that they are in.
        t[:rows].reshape(IMAGES, rows // IMAGES, 1, t.shape[1]).permute(0, 3, 1, 2)
        for t in (x, y)
    )
    weight = x.new_empty((n, 1, 1, k)).permute(0, 3, 1, 2)
    found = torch.ops.aten.convolution_backward(
        gradient, images, weight, [0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    found = found.reshape(n, k).T
    return found if rows == len(x) else found.addmm(x[rows:].T, y[rows:])
