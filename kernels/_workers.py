"""Threads of Python that each work on tiles of their own, with products and loops that keep to one thread.

Where work falls into tiles that fit a cache, a thread a tile beats all threads on every tile: nothing waits for the slowest
thread after each small step, which on a shared machine takes longer than the step. PyTorch and numba (`nogil`) release
Python's lock inside a step.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # The number of threads is one of the calling thread, save for what threads that come later begin with.
    pool = ThreadPoolExecutor(threads, "dropfold", initializer=lambda: torch.set_num_threads(1))
    list(pool.map(lambda _: None, range(threads)))
    torch.set_num_threads(threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)


def workers() -> int:
    """How many threads there are to share work."""
    return torch.get_num_threads()


def each(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`[work(item) for item in items]`, without gradients, shared by the threads; results in the order of items."""
    items, threads = list(items), workers()
    if threads == 1 or len(items) < 2:
        with torch.no_grad():
            return [work(item) for item in items]
    return list(_pool(threads).map(torch.no_grad()(work), items))
