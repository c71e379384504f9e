"""A file is whole or not there: what is synchronised when, and what an error or a kill leaves."""

import os
import signal
import stat

import pytest

from dropfold.data_scripts.work import atomic


@pytest.fixture
def calls(monkeypatch):
    """What the system is asked to do, in order: ("fsync", path), ("replace", source, target)."""
    done, fsync, replace = [], os.fsync, os.replace

    def note_fsync(handle):
        done.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def note_replace(source, target):
        done.append(("replace", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return done


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, calls):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    (first, temporary), rename, last = calls
    assert (first, rename, last) == (
        "fsync",
        ("replace", temporary, str(path)),
        ("fsync", str(tmp_path)),
    )
    assert os.path.dirname(temporary) == str(tmp_path)  # a rename to another disk would be a copy
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_reaches_the_disk_with_all_that_it_holds(tmp_path, calls):
    source = tmp_path / ".room"
    (source / "inner").mkdir(parents=True)
    for name in ("a.txt", "inner/b.txt"):
        (source / name).write_text("x")
    atomic.move_into_place(source, tmp_path / "room")
    *synced, rename, last = calls
    assert {path for _, path in synced} == {str(source / p) for p in ("", "a.txt", "inner", "inner/b.txt")}
    assert rename == ("replace", str(source), str(tmp_path / "room"))
    assert last == ("fsync", str(tmp_path))
    assert (tmp_path / "room/inner/b.txt").read_text() == "x"


def test_everybody_may_read_the_file(tmp_path):
    atomic.write_bytes(tmp_path / "a", b"x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_alone(error, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def fail():
        with atomic.replacing(path, suffix=".npz") as temporary:
            assert temporary.suffix == ".npz"
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_leaves_the_old_file(moment, tmp_path, run_python):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom dropfold.data_scripts.work import atomic\n"
        f"os.{moment} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\natomic.write_bytes(Path(sys.argv[1]), b'new')\n"
    )
    assert run_python("-c", code, str(path)).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
