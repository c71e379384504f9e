"""Work that is killed at random moments, in a process that has imported all it needs and has run no kernel yet."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable


def start(action: Callable[[], object]) -> int:
    """Run `action` in a fork, which ends with status 0, or 1 after an error; returns its process number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(pid: int) -> int:
    """The status that a process ends with, -9 if it is killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_random(
    action: Callable[[], object], kills: int, seconds: tuple[float, float], restart: Callable[[], object]
) -> None:
    """Start `action` until it has been killed so often, each time after a time between `seconds`; if it ends before, call
    `restart`, which checks what it made and clears it away. At the end it runs undisturbed."""
    drawn, done = random.Random(0), 0
    while done < kills:
        pid = start(action)
        until = time.monotonic() + drawn.uniform(*seconds)
        ended = 0
        while not ended and time.monotonic() < until:
            time.sleep(0.002)
            ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            restart()
            continue
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
        done += 1
    assert wait(start(action)) == 0
