"""How a command ends: with a sentence on bad input, a full disk, a signal or a closed pipe; with a traceback on a bug.

A sentence is what this project raises itself, and what the system says of a file. What a library raises by itself is no
message to a user: it was to be caught where the library was called, so it keeps its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import dis
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from dropfold.data_scripts.work.errors import in_a_sentence

HEARD = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 128 + signal.SIGINT  # exit statuses, as a shell reports them
PIPE_CLOSED = 128 + 13  # SIGPIPE
AGAIN_SECONDS = 0.5  # a second signal within this time is the first one, passed on by a launcher
BEGINS_ANEW = "nothing was written, and the same command begins anew"  # where no note says another thing
RAISE = dis.opmap["RAISE_VARARGS"]  # the instruction of a `raise`


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a cluster sends some seconds before it kills: all ends as after Ctrl-C."""


@contextlib.contextmanager
def end_with_a_sentence() -> Iterator[None]:
    """End the program with a sentence and exit status 1 on bad input and a full disk; 130 on Ctrl-C, 143 on SIGTERM; quietly
    with 141 if nobody reads its output any more.

    Notes of an exception (PEP 678) say what is kept, and how to go on. Other exceptions are bugs and keep their traceback,
    with a note on where it belongs.
    """
    _allow_any_text()
    try:
        with _hear_signals():
            try:
                _prepare_numba()
                yield
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
    except KeyboardInterrupt as stop:
        _end_interrupted(signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT, notes_of(stop))
    except BrokenPipeError as error:
        if error.filename is not None:
            raise SystemExit(f"error: {in_a_sentence(error)}") from None
        _write_nowhere()
        raise SystemExit(PIPE_CLOSED) from None
    except Exception as error:
        if _Heard.number is not None:  # a library made another error of the interruption
            _end_interrupted(_Heard.number, notes_of(error))
        if (said := find_sentence(error)) is None:
            error.add_note(
                "This is a fault of dropfold or of a library, not of your input; please report it, with the lines above and "
                f"the command: {shlex.join(['dropfold', *sys.argv[1:]])}"
            )
            raise
        notes = [f"{note}." for note in notes_of(error)] if isinstance(error, OSError | MemoryError) else []
        raise SystemExit("; once that is mended, ".join([f"error: {said}", *notes])) from None


def notes_of(error: BaseException) -> list[str]:
    """The notes of an exception (PEP 678)."""
    return getattr(error, "__notes__", [])


def find_sentence(error: Exception) -> str | None:
    """What to tell the user of an exception; None if it is a bug."""
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
        lines = str(error).splitlines()
        return f"the memory is not enough{f' ({lines[0]})' if lines else ''}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("dropfold"):
        return f"the package {error.name} is not in this Python, {sys.executable}; install dropfold anew."
    if not isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
        return None
    by_system = isinstance(error, OSError) and (error.filename or error.errno)
    return in_a_sentence(error) if by_system or is_ours(error) else None


def is_ours(error: BaseException) -> bool:
    """Whether an exception comes from a `raise` in this project; of one from another process, whether its class is ours."""
    if type(error).__module__.partition(".")[0] == "dropfold":
        return True
    step: TracebackType | None = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return False
    package = step.tb_frame.f_globals.get("__package__") or ""
    return package.partition(".")[0] == "dropfold" and step.tb_frame.f_code.co_code[step.tb_lasti] == RAISE


class _Heard:
    """The first signal of this process, and when it came."""

    number: int | None = None
    time = 0.0
    owner = 0
    said = False  # it ends the program, and that was said


def _hear(number: int, frame: FrameType | None) -> None:
    """Interrupt on the first signal, end at once on the next."""
    if os.getpid() != _Heard.owner:  # a fork, which its parent ends
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    now = time.monotonic()
    if _Heard.number is None:
        _Heard.number, _Heard.time = number, now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if now - _Heard.time > AGAIN_SECONDS:
        with contextlib.suppress(OSError):
            os.write(2, b"\nended at once; files that were whole are whole.\n")
        os._exit(128 + number)


@contextlib.contextmanager
def _hear_signals() -> Iterator[None]:
    """Hear Ctrl-C and SIGTERM inside the block, and if one came, up to the end of the process.

    What others hear already, or ignore (a shell's background jobs), stays as it is.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in HEARD}
        before = {number: handler for number, handler in before.items() if handler in usual}
    hook = sys.unraisablehook

    def hear_again(lost: sys.UnraisableHookArgs) -> None:
        """An interruption that came inside a destructor or a callback is lost there: it is sent anew."""
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            hook(lost)
            return
        number, _Heard.number = _Heard.number or signal.SIGINT, None

        def send() -> None:
            if not _Heard.said:
                os.kill(os.getpid(), number)

        timer = threading.Timer(0.05, send)
        timer.daemon = True
        timer.start()

    if before:
        _Heard.owner, _Heard.number, _Heard.said = os.getpid(), None, False
        sys.unraisablehook = hear_again
        atexit.unregister(_leave)
        atexit.register(_leave)
    for number in before:
        signal.signal(number, _hear)
    try:
        yield
    finally:
        if before and _Heard.number is None:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_interrupted(number: int, notes: list[str]) -> None:
    """Say once, in one line, that a signal ended the program, and how to go on."""
    _Heard.said = True
    if os.environ.get("RANK", "0") == "0":  # of several processes that train together, the first
        what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        with contextlib.suppress(OSError, ValueError):
            print("\n" + "; ".join([what, *(notes or [BEGINS_ANEW])]) + ".", file=sys.stderr, flush=True)
    raise SystemExit(128 + number) from None


def _leave() -> None:
    """End an interrupted program here, as the last of all that is done at its exit: the interpreter would end some by the
    signal itself, and hear another Ctrl-C in its last moments."""
    if _Heard.said and _Heard.number is not None and os.getpid() == _Heard.owner:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(128 + _Heard.number)


def _prepare_numba() -> None:
    """Refuse a number of threads that is none, and give compiled kernels a folder where neither the package's own nor the
    home can be written: numba finds both at its first function, and takes them for that one's fault."""
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not threads.isdecimal() or int(threads) < 1:
        raise ValueError(
            f"the environment variable NUMBA_NUM_THREADS is {threads!r}; set it to at least 1, or unset it."
        )
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~")
    if (
        "NUMBA_CACHE_DIR" in os.environ
        or os.access(Path(__file__).parent, os.W_OK)
        or os.access(caches, os.W_OK)
    ):
        return
    folder = tempfile.mkdtemp(prefix="dropfold-")  # of this user alone: what numba keeps there, it runs
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder
    print(
        f"note: {caches} cannot be written, so that all is compiled anew; NUMBA_CACHE_DIR may name a folder of yours.",
        file=sys.stderr,
    )


def _allow_any_text() -> None:
    """Let characters that the terminal does not know be printed as \\u2192, not end the program."""
    if getattr(sys.stdout, "errors", "") == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _write_nowhere() -> None:
    """Let what is still printed go nowhere, after the reader of a pipe has ended."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
