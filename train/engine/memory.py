"""Memory that a process has freed stays with it."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep() -> bool:
    """Tell glibc's malloc not to give freed memory back to the system; False where there is no glibc.

    By default a large tensor is fresh memory, which the system has to find and clear page by page, and is given back when
    it is freed: once a step for every activation and gradient. A dense LSTM on video spends most of its step on that. Kept,
    the memory that a step has used serves the next one. The price: it is free for other programs only after the process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not Linux, another libc, or Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
