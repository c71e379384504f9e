"""The memory of the process: freed memory is kept, and the peak is measured."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep() -> bool:
    """Tell glibc's malloc not to give freed memory back to the system; False where there is no glibc.

    By default each large tensor gets fresh memory, which the system finds and clears page by page, and takes back when the
    tensor is freed: once a step for every activation and gradient. A dense LSTM on video spends most of its step on that.
    Kept memory serves the next step. The price: other programs can use it only after the process has ended.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not Linux, another libc, or Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def peak(device: torch.device) -> int:
    """Largest memory so far in bytes: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest  # macOS counts bytes, Linux kilobytes
