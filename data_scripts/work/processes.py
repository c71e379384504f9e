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
    """Begin a process that works for another: it ends with its parent. One whose parent was
    killed would work on, or wait for work for ever; Ctrl-C is the parent's affair, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
