"""Grid sizes, launch options and types of sums, which launches of kernels are computed with; no Triton needed."""

from __future__ import annotations

import torch


def cdiv(a: int, b: int) -> int:
    """Ceiling division, `ceil(a / b)` for positive integers."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << max(0, n - 1).bit_length()


def all_registers() -> dict[str, int]:
    """Launch options of a kernel with few programs: NVIDIA's compiler may use all registers before it spills."""
    return {} if torch.version.hip else {"maxnreg": 255}


def precision(x: torch.Tensor) -> str:
    """Triton's `input_precision` of float32 products: TF32 if torch's settings allow it on this GPU, else IEEE."""
    return "tf32" if x.is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums over `dtype` are kept: float64 for itself, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
