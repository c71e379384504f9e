"""Python threads that each work on tiles of their own; products and loops inside a tile use one thread.

If the work splits into tiles that fit a cache, one thread per tile beats all threads on every tile: no thread waits for
the slowest one after each small step, a wait that on a shared machine takes longer than the step. PyTorch and numba
(`nogil`) release Python's lock inside a step.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch


def _use_one_thread() -> None:
    torch.get_num_threads()  # a thread copies the process's number when it first asks, and never again
    torch.set_num_threads(1)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # A new thread's `set_num_threads` also changes the number with which later threads start: set it back at the end.
    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "dropfold", initializer=_use_one_thread)
    all_started = threading.Barrier(threads)
    list(pool.map(lambda _: all_started.wait(), range(threads)))
    torch.set_num_threads(own)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)


def workers() -> int:
    """How many threads share the work."""
    return torch.get_num_threads()


def each(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`[work(item) for item in items]`, without gradients, shared by the threads; results in the order of items."""
    items, own = list(items), workers()
    results, threads = [None] * len(items), min(own, len(items))
    remaining = iter(range(len(items)))  # shared: each thread takes the next

    @torch.no_grad()
    def share() -> None:
        for i in remaining:
            results[i] = work(items[i])

    if threads < 2:
        share()
        return results
    others = [_pool(own - 1).submit(share) for _ in range(threads - 1)]
    torch.set_num_threads(1)
    try:  # this thread works too: one that waits has to be woken
        share()
    finally:
        for _ in remaining:
            pass  # after an error no further item is started
        wait(others)
        torch.set_num_threads(own)
    for other in others:
        other.result()
    return results
