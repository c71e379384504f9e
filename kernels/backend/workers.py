"""Threads of Python that each work on tiles of their own, with products and loops that keep to one thread.

Where work falls into tiles that fit a cache, a thread a tile beats all threads on every tile: nothing waits for the slowest
thread after each small step, which on a shared machine takes longer than the step. PyTorch and numba (`nogil`) release
Python's lock inside a step.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch


def _begin() -> None:
    torch.get_num_threads()  # a thread takes the process's number when it first asks, and not again
    torch.set_num_threads(1)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # The number of threads is one of the calling thread, save for what threads that come later begin with.
    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "dropfold", initializer=_begin)
    all_here = threading.Barrier(threads)  # so that each of them has begun before the number is set back
    list(pool.map(lambda _: all_here.wait(), range(threads)))
    torch.set_num_threads(own)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)


def workers() -> int:
    """How many threads there are to share work."""
    return torch.get_num_threads()


def each(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`[work(item) for item in items]`, without gradients, shared by the threads; results in the order of items."""
    items, own = list(items), workers()
    found, threads = [None] * len(items), min(own, len(items))
    left = iter(range(len(items)))  # shared: each thread takes the next

    @torch.no_grad()
    def share() -> None:
        for i in left:
            found[i] = work(items[i])

    if threads < 2:
        share()
        return found
    others = [_pool(own - 1).submit(share) for _ in range(threads - 1)]
    torch.set_num_threads(1)
    try:  # this thread works too: one that waits has to be woken
        share()
    finally:
        for _ in left:
            pass  # after an error nothing more is begun
        wait(others)
        torch.set_num_threads(own)
    for other in others:
        other.result()
    return found
