"""Processes that work beside this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Start a worker process: it ends when its parent ends, also when that was killed. It ignores Ctrl-C; the parent
    hears it, too, and ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
