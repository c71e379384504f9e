"""Machine code for the CPU by numba, and how it is called with tensors; imported by the files that hold such code.

`@njit` compiles a function at its first call and keeps the machine code on disk, beside the file, until a file of this
package changes: only the first run after an installation waits for the compiler. Loops over `prange` share the cores.
`fastmath` is off by default, so sums are the same in every run. `launch(function, *arguments)` calls a compiled function
with torch tensors.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import torch

from dropfold.kernels.backend.forked import run_alone_after_fork

MIN_SHARED_NANOSECONDS = 5e5  # below this much work a second thread costs more than it saves


class _Limit(threading.local):
    """How many threads the loops launched by the current Python thread may use."""

    threads = 1 << 30


_limit = _Limit()


@contextlib.contextmanager
def threads_for(nanoseconds: float) -> Iterator[None]:
    """Launch loops inside on one thread if they take about `nanoseconds` on one, and that is too little to share."""
    before = _limit.threads
    if nanoseconds < MIN_SHARED_NANOSECONDS:
        _limit.threads = 1
    try:
        yield
    finally:
        _limit.threads = before


@functools.cache
def _hash_sources() -> str:
    """A hash of all kernels: numba checks the date of a function's own file, but not of the files whose code it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def njit(
    function: Callable[..., Any] | None = None, *, parallel: bool = False, fastmath: bool | set[str] = False,
    inline: bool = False,
) -> Any:  # fmt: skip
    """Compile `function` by numba at its first call.

    `inline` copies its code into each caller, because a loop that calls a function is not vectorised.
    """
    if function is None:
        return functools.partial(njit, parallel=parallel, fastmath=fastmath, inline=inline)
    options: dict[str, Any] = {"parallel": parallel, "fastmath": fastmath, "forceinline": inline}
    dispatcher = numba.njit(cache=True, nogil=True, **options)(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None:  # with NUMBA_DISABLE_JIT nothing is compiled or kept
        cache_file._source_stamp = (cache_file._source_stamp, _hash_sources())
    return dispatcher


def launch(function: Any, *arguments: Any) -> Any:
    """Call a function of `@njit`; CPU tensors among the arguments are passed as NumPy views, without a copy."""
    views = [_to_numpy(argument) for argument in arguments]
    if not getattr(function, "targetoptions", {}).get("parallel"):
        return function(*views)
    # As many threads as torch uses now; numba keeps the number for each Python thread. Its start and its first launch
    # change OpenMP's number, which torch uses too.
    threads = torch.get_num_threads()
    try:
        run_alone_after_fork()
        max_threads = min(threads, _limit.threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(max(1, max_threads))
        return function(*views)
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _to_numpy(argument: Any) -> Any:
    if isinstance(argument, tuple):
        views = map(_to_numpy, argument)
        return type(argument)(*views) if hasattr(argument, "_fields") else tuple(views)
    if not isinstance(argument, torch.Tensor):
        return argument
    return argument.detach().numpy() if argument.requires_grad else argument.numpy()
