"""Numba, imported at the first call of a CPU kernel and not before.

`@njit` marks a function as CPU machine code; it is compiled at its first call and kept on disk beside the file until
this package changes, so that only the first run after an installation waits for the compiler. Loops over `prange` share
the cores. `fastmath` is off unless asked for: sums are then the same in every run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

SMALL = (
    5e5  # nanoseconds of work that are not worth the wait for another thread, which comes when it has a core
)


class _Limit(threading.local):
    """Threads that loops may share, of each Python thread."""

    threads = 1 << 30


_limit = _Limit()


@contextlib.contextmanager
def shared(work: float) -> Iterator[None]:
    """Loops called inside share the cores if they take more than SMALL of about `work` nanoseconds on one."""
    held, _limit.threads = _limit.threads, 1 if work < SMALL else _limit.threads
    try:
        yield
    finally:
        _limit.threads = held


COMPILING = threading.RLock()


@functools.cache
def _sources() -> str:
    """A hash of this package: numba looks at the time of a function's own file, and not at the files of what it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class NumbaFunction:
    """A function that numba compiles at its first call. Torch tensors are passed as NumPy views, without a copy."""

    def __init__(self, fn: Callable[..., Any], options: dict[str, Any]) -> None:
        self.fn = fn
        self.options = options
        functools.update_wrapper(self, fn)

    @functools.cached_property
    def compiled(self) -> Any:
        """The numba dispatcher. Functions called from this one, and `prange`, are bound in its module first."""
        import numba

        with COMPILING:
            scope = self.fn.__globals__
            scope["prange"] = numba.prange
            for name in self.fn.__code__.co_names:
                if isinstance(called := scope.get(name), NumbaFunction):
                    scope[name] = called.compiled
            dispatcher = numba.njit(cache=True, nogil=True, **self.options)(self.fn)
            kept = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
            if kept is not None:  # with NUMBA_DISABLE_JIT nothing is compiled or kept
                kept._source_stamp = (kept._source_stamp, _sources())
            return dispatcher

    def __call__(self, *args: Any) -> Any:
        if not self.options["parallel"]:
            return self.compiled(*[_view(a) for a in args])
        import numba

        # As many threads as torch has now; numba keeps the number for each Python thread.
        threads = torch.get_num_threads()
        most = min(threads, _limit.threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(max(1, most))
        try:
            return self.compiled(*[_view(a) for a in args])
        finally:
            if (
                torch.get_num_threads() != threads
            ):  # numba's first launch sets OpenMP's number, which is torch's too
                torch.set_num_threads(threads)


def _view(a: Any) -> Any:
    if isinstance(a, tuple):
        return type(a)(*map(_view, a)) if hasattr(a, "_fields") else tuple(map(_view, a))
    if not isinstance(a, torch.Tensor):
        return a
    return a.detach().numpy() if a.requires_grad else a.numpy()


def njit(
    fn: Callable[..., Any] | None = None, *, parallel: bool = False, fastmath: bool | set[str] = False,
    inline: bool = False,
) -> Any:  # fmt: skip
    """Mark `fn` to be compiled by numba at its first call; arguments may be torch CPU tensors.

    `inline` puts its code in the place of each call: a loop that calls is not vectorised.
    """
    options = {"parallel": parallel, "fastmath": fastmath, "forceinline": inline}
    if fn is None:
        return lambda f: NumbaFunction(f, options)
    return NumbaFunction(fn, options)
