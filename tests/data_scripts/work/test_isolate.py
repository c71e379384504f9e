"""Work on a file in another process: what comes back, and that no crash, hang or hunger of one file is another's."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.work import isolate, jobs
from dropfold.data_scripts.work.errors import SchemaError, ShapeError, VideoError
from dropfold.data_scripts.work.isolate import Crash, call
from dropfold.data_scripts.work.jobs import Job, load_piece, run_jobs

LIMITS = {"seconds": 20.0, "memory": 1 << 30}


# What the worker runs. It imports this module.


def give(what):
    return {
        "grid": np.arange(6, dtype=">i2").reshape(2, 3)[:, ::-1],
        "nothing": np.empty((0, 3), np.float32),
        "text": np.array(["a", "ü"]),
        "number": np.float64(what),
        "pid": np.array(os.getpid()),
    }


def fall(how):
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    if how == "hang":  # as a decoder that holds the interpreter's lock
        import ctypes

        ctypes.PyDLL(None).sleep(60)
    if how == "memory":
        return {"zeros": np.ones(3 << 30, np.uint8)}
    if how == "panic":
        raise Panic("index out of bounds")
    if how == "odd":
        raise RuntimeError("what is this")
    if how == "shape":
        raise ShapeError("a.ply has no points.")
    if how == "video":
        raise VideoError("a.mp4 is empty.")
    if how == "lost":
        Path("/nowhere/at/all").read_bytes()
    print("printed")
    os.write(2, b"thread panicked at\n")
    return {}


class Panic(BaseException):
    """As decoders in Rust raise."""


def where(name):
    return {"size": np.array(Path(name).stat().st_size)}


def test_arrays_come_back_as_they_are():
    found = call(give, 7, **LIMITS)
    assert found["grid"].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert found["grid"].dtype == np.dtype(">i2")
    assert found["nothing"].shape == (0, 3)
    assert found["text"].tolist() == ["a", "ü"]
    assert found["number"] == 7
    assert found["pid"] != os.getpid()
    assert call(give, 8, **LIMITS)["pid"] == found["pid"]  # one process for many files


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("abort", Crash, "killed the process that reads it, SIGABRT"),
        ("kill", Crash, "killed the process that reads it, SIGKILL"),
        ("exit", Crash, "exit status 3"),
        ("memory", Crash, r"it needs more than 1\.0 GiB of memory"),
        ("panic", Crash, "Panic: index out of bounds"),
        ("odd", Crash, "RuntimeError: what is this"),
        ("shape", ShapeError, r"^a\.ply has no points\.$"),
        ("video", VideoError, r"^a\.mp4 is empty\.$"),
        ("lost", FileNotFoundError, "/nowhere/at/all"),
    ],
)
def test_what_goes_wrong_is_said(how, kind, message, capfd):
    if how == "memory" and not sys.platform.startswith("linux"):
        pytest.skip("memory is limited on Linux alone")
    with pytest.raises(kind, match=message):
        call(fall, how, **LIMITS)
    assert call(give, 1, **LIMITS)["number"] == 1  # another worker takes over
    assert capfd.readouterr() == ("", "")


def test_what_takes_too_long_is_ended():
    start = time.monotonic()
    with pytest.raises(Crash, match="it takes longer than 1 s"):
        call(fall, "hang", seconds=0.6, memory=1 << 30)
    assert time.monotonic() - start < 10


def test_what_a_decoder_prints_is_not_shown(capfd):
    assert call(fall, "", **LIMITS) == {}
    assert capfd.readouterr() == ("", "")


def test_paths_are_those_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("abc")
    monkeypatch.chdir(tmp_path)
    assert call(where, Path("a.txt"), **LIMITS)["size"] == 3


def test_threads_work_side_by_side():
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda i: float(call(give, i, **LIMITS)["number"]), range(12)))
    assert found == list(range(12))


SCRIPT = """
import sys, threading, time
from dropfold.data_scripts.work.isolate import call
from tests.data_scripts.work.test_isolate import fall, give
print(int(call(give, 1, seconds=50, memory=1 << 30)["pid"]), flush=True)
threading.Thread(target=lambda: call(fall, sys.argv[1], seconds=50, memory=1 << 30), daemon=True).start()
time.sleep(0.5)
print("under way", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_worker_ends_with_its_parent(how, tmp_path):
    """A script without `if __name__ == "__main__"`, which a spawned process would run again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), "", "60" if how == "killed" else "0"]
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True
    ) as process:
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "under way\n"
        if how == "killed":
            process.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own():
    """As a DataLoader's: two that read from one pipe would each get half of an answer."""
    pid = int(call(give, 1, **LIMITS)["pid"])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writing, "w") as file:
            file.write(str(int(call(give, 2, **LIMITS)["pid"])))
        isolate.close_workers()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        other = int(file.read())
    os.waitpid(child, 0)
    assert other != pid
    assert call(give, 3, **LIMITS)["pid"] == pid


# --- jobs --------------------------------------------------------------------------------------------------------


def test_one_bad_file_stops_no_other(tmp_path):
    """Whatever is raised, all others are read, and the next start reads only what is missing."""
    raised = {
        "shape": ShapeError("shape.ply has no points."),
        "memory": MemoryError(),
        "panic": Panic("index out of bounds"),
        "odd": ZeroDivisionError("division by zero"),
        "denied": PermissionError(13, "Permission denied"),
    }
    done = []

    def job(name):
        def read(advance):
            done.append(name)
            if name in raised:
                raise raised[name]
            return {"n": np.array(len(name))}

        return Job(name, "key", 1, read)

    listed = [job(name) for name in ("a", *raised, "b")]
    with pytest.raises(SchemaError) as caught:
        run_jobs(tmp_path / "out.h5", listed, 2, "rooms")
    text = str(caught.value)
    assert "5 of 7 rooms cannot be read" in text
    for line in (
        "  shape: shape.ply has no points.",
        "  memory: memory needs more memory than there is.",
        "  panic: panic cannot be read (Panic: index out of bounds).",
        "  odd: odd cannot be read (ZeroDivisionError: division by zero).",
        "  denied: denied cannot be read (Permission denied).",
    ):
        assert line in text
    raised.clear()
    done.clear()
    part = run_jobs(tmp_path / "out.h5", listed, 2, "rooms")
    assert sorted(done) == ["denied", "memory", "odd", "panic", "shape"]
    assert [int(load_piece(part, one)["n"]) for one in listed] == [1, 5, 6, 5, 3, 6, 1]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["ctrl-c", "full"]
)
def test_what_must_stop_all_does(error, tmp_path):
    def read(advance):
        raise error

    with pytest.raises(type(error)):
        run_jobs(tmp_path / "out.h5", [Job("a", "key", 1, read)], 1, "rooms")
    assert jobs.describe_fault("a", error) is None
    assert threading.active_count() < 20
