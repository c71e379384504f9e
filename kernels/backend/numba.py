"""Machine code for the CPU by numba, and how it is called with tensors; imported by files of such code, at their first use.

`@njit` compiles a function at its first call and keeps the machine code on disk beside the file until this package changes,
so that only the first run after an installation waits for the compiler. Loops over `prange` share the cores. `fastmath` is
off unless asked for: sums are then the same in every run. `launch(function, *arguments)` calls one with torch tensors.
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

# Below this much work a second thread costs more than it saves.
SMALL_NANOSECONDS = 5e5


class _Limit(threading.local):
    """The most threads that loops of the current Python thread may take."""

    threads = 1 << 30


_limit = _Limit()


@contextlib.contextmanager
def shared(nanoseconds: float) -> Iterator[None]:
    """Loops launched inside share the cores if they take more than SMALL_NANOSECONDS of about `nanoseconds` on one."""
    before, _limit.threads = _limit.threads, 1 if nanoseconds < SMALL_NANOSECONDS else _limit.threads
    try:
        yield
    finally:
        _limit.threads = before


@functools.cache
def _hash_sources() -> str:
    """A hash of all kernels: numba looks at the time of a function's own file, and not at the files of what it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def njit(
    function: Callable[..., Any] | None = None, *, parallel: bool = False, fastmath: bool | set[str] = False,
    inline: bool = False,
) -> Any:  # fmt: skip
    """Compile `function` by numba at its first call.

    `inline` puts its code in the place of each call: a loop that calls is not vectorised.
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
    views = [_view(argument) for argument in arguments]
    if not getattr(function, "targetoptions", {}).get("parallel"):
        return function(*views)
    # As many threads as torch has now; numba keeps the number for each Python thread.
    threads = torch.get_num_threads()
    most = min(threads, _limit.threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    numba.set_num_threads(max(1, most))
    try:
        return function(*views)
    finally:
        # numba's first launch sets OpenMP's number, which is torch's too.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _view(argument: Any) -> Any:
    if isinstance(argument, tuple):
        views = map(_view, argument)
        return type(argument)(*views) if hasattr(argument, "_fields") else tuple(views)
    if not isinstance(argument, torch.Tensor):
        return argument
    return argument.detach().numpy() if argument.requires_grad else argument.numpy()
