"""How a command ends: what is a sentence and what is a bug, signals, closed pipes, terminals that lack characters."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from dropfold.data_scripts.work.ending import PIPE_CLOSED, end_with_a_sentence
from dropfold.data_scripts.work.errors import SchemaError

BEGUN = signal.default_int_handler


def ending(code, package="dropfold.train"):
    """A function of a module of `package` that runs `code`."""
    return lambda: exec(compile(code, "module.py", "exec"), {"__package__": package})


def noted(error):
    error.add_note("the same command goes on from here")
    return error


def throw(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (ending("raise ValueError('a.h5: label is 3')"), "a.h5: label is 3"),
        (ending("try: int('x')\nexcept ValueError: raise ValueError('line 3: x') from None"), "line 3: x"),
        (ending("def f():\n try: raise ValueError('inner')\n except ValueError: raise\nf()"), "inner"),
        (ending("raise FloatingPointError('the loss is nan')"), "the loss is nan"),
        (throw(SchemaError("a.h5: no split")), "a.h5: no split"),  # also of a process whose traceback is lost
        (ending("open('/none/a')"), "/none/a: No such file or directory"),
        (throw(OSError(errno.ENOSPC, "No space left on device", "a.h5")), "a.h5: No space left on device"),
        (throw(PermissionError(errno.EPIPE, "Broken pipe", "fifo")), "fifo: Broken pipe"),
        (
            throw(noted(OSError(errno.ENOSPC, "No space left on device", "a.h5"))),
            "a.h5: No space left on device; once that is mended, the same command goes on from here.",
        ),
        (
            throw(MemoryError("Unable to allocate 9 GiB")),
            "the memory is not enough (Unable to allocate 9 GiB)",
        ),
        (ending("import no_such_library"), "the package no_such_library is not in this Python"),
    ],
)
def test_what_we_raise_and_what_the_system_says_of_a_file_is_a_sentence(action, said):
    with pytest.raises(SystemExit) as stopped, end_with_a_sentence():
        action()
    assert str(stopped.value.code).startswith(f"error: {said}")
    assert stopped.value.__suppress_context__  # no traceback of the cause either


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (ending("int('x')"), ValueError),  # in our own frame, by a builtin
        (ending("import numpy\nnumpy.zeros(3).reshape(2)"), ValueError),
        (ending("import json\njson.loads('{')"), ValueError),
        (ending("b'\\xff'.decode()"), UnicodeDecodeError),
        (ending("import torch\ntorch.zeros(2) @ torch.zeros(3)"), RuntimeError),
        (ending("raise ValueError('x')", "numpy"), ValueError),
        (ending("assert False"), AssertionError),
        (ending("raise KeyError('x')"), KeyError),
        (ending("raise OSError('cannot open')", "h5py"), OSError),
        (ending("import dropfold.nothing"), ModuleNotFoundError),
    ],
)
def test_a_fault_of_a_library_or_of_ours_keeps_its_traceback_and_says_so(action, kind):
    with pytest.raises(kind) as raised, end_with_a_sentence():
        action()
    assert "please report it" in raised.value.__notes__[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "\ninterrupted; nothing was written, and the same command begins anew.\n"),
        (noted(KeyboardInterrupt()), "\ninterrupted; the same command goes on from here.\n"),
    ],
)
def test_ctrl_c_is_a_line_and_status_130(error, said, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped, end_with_a_sentence():
        raise error
    assert (stopped.value.code, capsys.readouterr().err) == (130, said)
    monkeypatch.setenv("RANK", "1")  # the first of the processes says it
    with pytest.raises(SystemExit), end_with_a_sentence():
        raise error
    assert capsys.readouterr().err == ""


WAITING = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
from dropfold.data_scripts.work.ending import end_with_a_sentence
class Lost:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass
def swallow():
    try: time.sleep(20)
    except KeyboardInterrupt: raise ImportError("a library's own words") from None
def hang():
    try: time.sleep(20)
    finally: time.sleep(20)
def destroy():
    Lost()
    time.sleep(20)
def fork():
    if (pid := os.fork()) == 0: time.sleep(20)
    time.sleep(0.2); os.kill(pid, signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
with end_with_a_sentence():
    print("ready", flush=True)
    {}
"""


@pytest.mark.parametrize(
    ("doing", "signals", "status", "said"),
    [
        ("time.sleep(20)", [signal.SIGINT], 130, "interrupted; nothing was written"),
        ("time.sleep(20)", [signal.SIGTERM], 143, "ended by SIGTERM; nothing was written"),
        ("swallow()", [signal.SIGINT], 130, "interrupted; nothing was written"),
        ("hang()", [signal.SIGINT, signal.SIGINT], 130, "ended at once"),
        ("destroy()", [], 130, "interrupted; nothing was written"),
        ("fork()", [], 0, ""),
    ],
)
def test_signals_end_a_program_without_a_traceback(doing, signals, status, said):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.replace("{}", doing)], stdout=-1, stderr=-1, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # it is inside what it does
    for number in signals:
        process.send_signal(number)
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            continue
    _, errors = process.communicate(timeout=10)
    assert process.returncode == status
    assert said in errors
    assert "Traceback" not in errors
    assert "ignored" not in errors


def test_a_job_in_the_background_stays_deaf_to_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with end_with_a_sentence():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_as_before_after_a_command():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with end_with_a_sentence():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_reader_that_ends_early_ends_the_program_quietly(run_python):
    code = (
        "from dropfold.data_scripts.work.ending import end_with_a_sentence\n"
        "import os, sys\nreading, writing = os.pipe()\nos.close(reading)\nos.dup2(writing, 1)\n"
        "with end_with_a_sentence(): print('a line')"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


def test_a_terminal_that_lacks_a_character_is_given_its_code(run_python):
    code = (
        "from dropfold.data_scripts.work.ending import end_with_a_sentence\n"
        "with end_with_a_sentence(): print('Stühle \\u2192 \\udcff')"
    )
    done = run_python("-c", code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "St\\xfchle \\u2192 \\udcff\n")


@pytest.mark.parametrize("threads", ["nonsense", "0", "-1", ""])
def test_a_number_of_threads_that_is_none_is_refused(threads, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    with (
        pytest.raises(SystemExit, match=r"NUMBA_NUM_THREADS is .*; set it to at least 1"),
        end_with_a_sentence(),
    ):
        pass


def test_where_nothing_can_be_kept_numba_is_given_a_folder(monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    with end_with_a_sentence():
        folder = os.environ["NUMBA_CACHE_DIR"]
    del os.environ["NUMBA_CACHE_DIR"]
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert "NUMBA_CACHE_DIR may name a folder" in capsys.readouterr().err
