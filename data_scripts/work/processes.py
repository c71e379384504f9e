"""Processes that work beside this one: workers, the writers of temporary files, and the one that holds a folder."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

LOCK = ".dropfold.lock"


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def start_deaf() -> Iterator[None]:
    """Processes that are started inside the block hear no Ctrl-C, not even while they import: the parent hears it after the
    block, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting it with the first process would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def identify(pid: int | None = None) -> str:
    """A process (None: this one) as PLACE-BOOT-PID-START: the machine and its process numbers, its start, the process, its
    start. No other process has the same, also after its number is given away again."""
    pid = os.getpid() if pid is None else pid
    return "-".join([*_place(), str(pid), str(_start_of(pid) or 0)])


def has_ended(process: str) -> bool | None:
    """Whether a process that `identify` named has ended; None if it is another machine's, which this one cannot see."""
    place, boot, pid, start = process.split("-")
    if place != _place()[0]:
        return None
    started = _start_of(int(pid))
    return boot != _place()[1] or started is None or (started > 0 and str(started) != start)


@functools.cache
def _place() -> tuple[str, str]:
    """The machine, or the container on it, whose process numbers these are; and its start."""

    def read(path: str) -> str:
        try:
            return Path(path).read_text().strip()
        except OSError:  # not Linux
            return ""

    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    place = f"{platform.node()} {read('/etc/machine-id')} {numbers}"
    boot = read("/proc/sys/kernel/random/boot_id")
    return hashlib.sha256(place.encode()).hexdigest()[:8], hashlib.sha256(boot.encode()).hexdigest()[:6]


def _start_of(pid: int) -> int | None:
    """Clock ticks from the machine's start to the process's; 0 where the system does not tell. None: it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # not Linux, or hidden as another user's
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(rest[18])
    if os.name == "nt":  # there the signal below ends the process
        return 0
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:  # another user's
        pass
    return 0


class FolderLock:
    """One process a folder: a file in it is locked while the process works, and says which one does.

    The system frees the lock of a process that was killed, on network drives too. Where a drive knows no locks, the process
    that the file names holds it until it has ended.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.handle: int | None = None

    def take(self, doing: str) -> None:
        """Take the lock; `doing` is what a message says that the folder is for: "trained in".

        Raises:
            ValueError: another process holds it; the message names that one.
        """
        while self.handle is None:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._refuse_other(handle, doing)
                mine = os.fstat(handle)
                # The holder before may have removed the file between our opening and our locking it.
                if _is_at(self.path, mine):
                    self.handle = handle
                    with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
                        os.ftruncate(handle, 0)
                        os.lseek(handle, 0, os.SEEK_SET)
                        os.write(handle, json.dumps(_holder()).encode())
            finally:
                if self.handle is None:
                    os.close(handle)

    def release(self) -> None:
        """Free the folder, if it is held."""
        if self.handle is not None:
            handle, self.handle = self.handle, None
            self.path.unlink(missing_ok=True)  # before it is free: the next process makes a file of its own
            os.close(handle)

    def _refuse_other(self, handle: int, doing: str) -> None:
        import fcntl  # not on Windows, where data are read only

        text = os.read(handle, 4096)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _read_holder(text) or {}
        except OSError:  # a drive without locks
            found = _read_holder(text)
            if found is None or has_ended(found["process"]):
                return
            holder = found
        who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}"
        since = f" since {holder['since']}" if "since" in holder else ""
        raise ValueError(
            f"{self.path.parent} is being {doing} by {who}{since}; wait until it has ended, or end it. If no such process "
            f"is left, delete {self.path}."
        )


@contextlib.contextmanager
def hold_folder(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder's lock inside the block, see `FolderLock`."""
    lock = FolderLock(folder)
    lock.take(doing)
    try:
        yield
    finally:
        lock.release()


def _is_at(path: Path, about: os.stat_result) -> bool:
    """Whether `path` leads to the file that `about` is of."""
    try:
        return os.path.samestat(path.stat(), about)
    except FileNotFoundError:
        return False


def _holder() -> dict[str, Any]:
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return {"host": platform.node(), "pid": os.getpid(), "since": since, "process": identify()}


def _read_holder(text: bytes) -> dict[str, Any] | None:
    """What a lock's file says; None if a kill left it empty."""
    try:
        found = json.loads(text)
        has_ended(found["process"])
        return found
    except (ValueError, KeyError, TypeError):
        return None
