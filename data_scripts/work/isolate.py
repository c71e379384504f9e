"""Work on one untrusted file in a process of its own: a crash, a hang or a hunger for memory there is that file's fault.

Decoders in C and Rust abort on some broken files. `call` runs a function in a worker process that lies ready, with a limit
of time and memory, and returns its arrays. A worker serves many files, one at a time; one that died is replaced, and all end
with their parent. What goes through the pipes is JSON and plain arrays: no file can make this process run code.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from dropfold.data_scripts.work import errors
from dropfold.data_scripts.work.processes import start_deaf

Arrays = dict[str, np.ndarray]
SECONDS_TO_START = 120.0  # of a worker, on a machine that is busy
SECONDS_TO_IMPORT = 30.0  # what a function needs; its own time begins after that
START = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from dropfold.data_scripts.work.isolate import serve
serve()"""


class Crash(Exception):
    """The work did not end well; the text says why, as the end of a sentence in brackets."""


def call(
    function: Callable[..., Arrays],
    *arguments: Any,
    seconds: float,
    memory: int,
    notes: list[str] | None = None,
) -> Arrays:
    """What `function(*arguments)` returns, run in a worker process.

    function: of a module that can be imported. arguments: paths and whatever JSON holds. seconds, memory: the most that the
    work may take; memory in bytes (a limit on Linux alone). notes: gets the text of the array "notes", if there is one.

    Raises:
        Crash: the worker died, took too long, or the function raised what is no error of data.
        ArchiveError, SchemaError, ShapeError, VideoError, OSError: as the function raised it.
    """
    worker = _take_worker()
    request = {
        "function": name_of(function),
        "folder": os.getcwd(),  # of relative paths
        "arguments": [os.fspath(one) if isinstance(one, os.PathLike) else one for one in arguments],
        "seconds": seconds,
        "memory": memory,
    }
    try:
        worker.send(request)
        answer = worker.receive(seconds + SECONDS_TO_IMPORT)
    except BaseException as error:
        worker.kill()
        if isinstance(error, TimeoutError):
            raise Crash(f"it takes longer than {seconds:.0f} s") from None
        if isinstance(error, EOFError | BrokenPipeError | ConnectionError):
            raise Crash(_reason_of_death(worker, seconds, memory)) from None
        raise
    if answer.get("raised") == "Crash":  # what a panic or a lack of memory leaves behind is not trusted
        worker.kill()
    else:
        _idle(worker)
    if "raised" in answer:
        raise _error_of(answer)
    arrays: Arrays = answer["arrays"]
    said = arrays.pop("notes", None)
    if said is not None and notes is not None:
        notes += said.tolist()
    return arrays


def name_of(function: Callable[..., Any]) -> str:
    """module:name of a function, by which a worker finds it."""
    return f"{function.__module__}:{function.__qualname__}"


def find(name: str) -> Callable[..., Any]:
    """The function of a `name_of`."""
    module, _, inner = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in inner.split("."):
        found = getattr(found, part)
    return found


def available_memory() -> int:
    """Bytes that this machine could still give, and half of all where that is not known."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 << 30


# --- this side ---------------------------------------------------------------------------------------------------


class _Worker:
    """A process that waits for work."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "MALLOC_ARENA_MAX": "2",
        }  # else threads reserve address space beyond the limit
        with start_deaf():
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        try:
            self.receive(SECONDS_TO_START)
        except BaseException as error:
            self.kill()
            if isinstance(error, EOFError | TimeoutError):
                raise RuntimeError(
                    "the process that reads files did not start; see its error above."
                ) from None
            raise

    def send(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        _write(self.process.stdin, request, {})

    def receive(self, seconds: float) -> dict[str, Any]:
        """The answer; an error if it does not begin in time."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                raise TimeoutError
        return _read(self.process.stdout)

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        """End the worker: its input ends."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


_ready: list[_Worker] = []
_of_parent: list[_Worker] = []  # in a forked process: left alone
_lock = threading.Lock()


def _leave_to_parent() -> None:
    """A forked process takes workers of its own."""
    global _lock
    _lock = threading.Lock()
    _of_parent.extend(_ready)
    _ready.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _take_worker() -> _Worker:
    with _lock:
        while _ready:
            if (worker := _ready.pop()).process.poll() is None:
                return worker
            worker.close()
    return _Worker()


def _idle(worker: _Worker) -> None:
    with _lock:
        _ready.append(worker)


@atexit.register
def close_workers() -> None:
    """End the workers that lie ready."""
    with _lock:
        while _ready:
            _ready.pop().close()


def _reason_of_death(worker: _Worker, seconds: float, memory: int) -> str:
    code = worker.process.returncode
    if code == -getattr(signal, "SIGALRM", 0):
        return f"it takes longer than {seconds:.0f} s"
    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return f"it killed the process that reads it, {name}, which had {memory / 2**30:.1f} GiB of memory; is it damaged?"


def _error_of(answer: dict[str, Any]) -> Exception:
    kind, text = answer["raised"], answer["text"]
    if kind == "OSError":
        return OSError(*answer["details"])
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, ValueError):
        return known(text)
    return Crash(text)


# --- the worker's side -------------------------------------------------------------------------------------------


def serve() -> None:
    """The life of a worker: read a request, do it, write the answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    _write(answers, {"ready": True}, {})
    os.dup2(nothing, 2)  # what decoders print of broken files
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        request = requests.get()
        head, arrays = _do(request)
        try:
            _write(answers, head, arrays)
        except OSError:  # the parent is gone
            os._exit(1)


def _listen(requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Take requests until the parent ends, which ends this process in the middle of its work."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(_read(sys.stdin.buffer))
    os._exit(0)


def _do(request: dict[str, Any]) -> tuple[dict[str, Any], Arrays]:
    """The head of the answer, and its arrays."""
    try:
        function = find(request["function"])
        os.chdir(request["folder"])
        with _limits(request["seconds"], request["memory"]):
            found = {name: np.asarray(values) for name, values in function(*request["arguments"]).items()}
        return {}, found
    except OSError as error:
        if error.errno is None:
            return {"raised": "Crash", "text": f"{type(error).__name__}: {error}"}, {}
        name = None if error.filename is None else os.fsdecode(error.filename)
        return {"raised": "OSError", "text": "", "details": [error.errno, error.strerror, name]}, {}
    except MemoryError:
        return {
            "raised": "Crash",
            "text": f"it needs more than {request['memory'] / 2**30:.1f} GiB of memory",
        }, {}
    except BaseException as error:  # a panic of a decoder in Rust is no Exception
        known = isinstance(error, ValueError) and type(error).__module__ == errors.__name__
        return {
            "raised": type(error).__name__ if known else "Crash",
            "text": str(error) if known else f"{type(error).__name__}: {error}",
        }, {}


@contextlib.contextmanager
def _limits(seconds: float, memory: int) -> Any:
    """End this process after `seconds`, and let an allocation fail beyond `memory` bytes more than it has."""
    if hasattr(signal, "setitimer"):
        # The system's default ends the process without the interpreter, which a decoder may hold.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    lifted = _limit_memory(memory)
    try:
        yield
    finally:
        lifted()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(memory: int) -> Callable[[], None]:
    """Returns what lifts the limit."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + memory if hard == resource.RLIM_INFINITY else min(used + memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# --- what goes through the pipes ---------------------------------------------------------------------------------


def _write(pipe: IO[bytes], head: dict[str, Any], arrays: Arrays) -> None:
    """A head in JSON with its length before it, then the bytes of the arrays."""
    whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    listed = [[name, values.dtype.str, list(arrays[name].shape)] for name, values in whole.items()]
    text = json.dumps({**head, "listed": listed}).encode()
    pipe.write(len(text).to_bytes(8, "little") + text)
    for values in whole.values():
        if values.size:
            pipe.write(values.reshape(-1).view(np.uint8).data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> dict[str, Any]:
    """The other end: the head, with the arrays at "arrays". `EOFError` where the pipe ends."""
    size = int.from_bytes(_exactly(pipe, 8), "little")
    head: dict[str, Any] = json.loads(_exactly(pipe, size))
    head["arrays"] = {}
    for name, kind, shape in head.pop("listed"):
        if np.dtype(kind).hasobject:
            raise EOFError
        values = np.empty(shape, np.dtype(kind))
        if values.size:
            view = values.reshape(-1).view(np.uint8).data
            while len(view):
                count = pipe.readinto(view)  # type: ignore[attr-defined]
                if not count:
                    raise EOFError
                view = view[count:]
        head["arrays"][name] = values
    return head


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    found = pipe.read(size)
    if len(found) < size:
        raise EOFError
    return found
