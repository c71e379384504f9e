"""A file is whole or not there: what is synchronised when, and what an error or a kill leaves."""

import contextlib
import errno
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.readers.scene_file import check_target, write_scene
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import SchemaError, in_a_sentence
from dropfold.data_scripts.work.processes import has_ended, identify
from dropfold.train.predict.convert import CONVERTED


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


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_says_who_may_read_the_file(umask, tmp_path):
    before = os.umask(umask)
    try:
        atomic.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


FOREIGN = (
    *(
        ".env",
        ".gitignore",
        ".bashrc",
        ".a.tmp",
        ".a.abcd1234.tmp",
        "a.tmp",
        "cut.tmp",
        ".a.swp",
        ".a.dropfold.tmp",
    ),
    *(".dropfold", ".a.dropfold-1.tmp", ".a.dropfold-00000000-000000-1-1.tmp", ".a.dropfold-x-1.tmp"),
)


def left_by(process, name="a", suffix=".tmp"):
    return f".{name}.dropfold-{process}-01234567{suffix}"


@pytest.fixture
def other():
    """A process that lives, and its name; the test may end it."""
    process = subprocess.Popen(["sleep", "60"])
    yield process, identify(process.pid)
    process.kill()
    process.wait()


def test_what_a_killed_writer_left_goes_at_the_next_start_and_nothing_else(tmp_path, other):
    process, name = other
    place, boot, pid, start = name.split("-")
    for foreign in FOREIGN:
        (tmp_path / foreign).write_text("mine")
    (tmp_path / ".git").mkdir()
    living = {left_by(name), left_by(name, suffix=".ply"), left_by(identify(), "b")}
    elsewhere = {left_by(f"{'0' * 8}-{boot}-{pid}-{start}")}
    dead = {
        left_by(f"{place}-{boot}-{pid}-{int(start) + 1}"),  # the number was given away again
        left_by(
            f"{place}-{'0' * 6}-{pid}-{start}", "other.npz", ".npz"
        ),  # before the machine was started anew
        left_by(f"{place}-{boot}-{2**22 + 1}-{start}", "a\nb"),
    }
    for one in (*living, *elsewhere, *dead):
        (tmp_path / one).write_text("half")
    (tmp_path / left_by(f"{place}-{boot}-{pid}-7", "room")).mkdir()
    (tmp_path / left_by(f"{place}-{boot}-{pid}-7", "room") / "x").write_text("half")
    atomic.write_bytes(tmp_path / "c", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {*FOREIGN, ".git", "c", *living, *elsewhere}
    process.kill()
    process.wait()
    atomic.remove_left_over(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(*FOREIGN, ".git", "c", left_by(identify(), "b"), *elsewhere)
    }
    week = time.time() - 8 * 86_400
    for one in (*elsewhere, ".env"):
        os.utime(tmp_path / one, (week, week))
    atomic.remove_left_over(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*FOREIGN, ".git", "c", left_by(identify(), "b")}


def test_who_holds_a_folder_removes_what_others_left_of_its_own_files(tmp_path):
    elsewhere = f"{'0' * 8}-{'0' * 6}-1-1"
    for name in ("config.json", "other.json"):
        (tmp_path / left_by(elsewhere, name)).write_text("half")
    (tmp_path / left_by(identify(), "config.json")).write_text("a thread of this process writes it")
    atomic.remove_left_over(tmp_path, ["config.json"])
    assert {path.name for path in tmp_path.iterdir()} == {
        left_by(elsewhere, "other.json"),
        left_by(identify(), "config.json"),
    }


def test_a_zombie_has_ended():
    process = subprocess.Popen(["sleep", "60"])
    name = identify(process.pid)
    assert has_ended(name) is False
    process.kill()
    time.sleep(0.2)
    assert has_ended(name) is True  # before it is waited for
    process.wait()
    assert has_ended(name) is True


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, os.fsdecode(b"\xff\xfe name"), "a\nb", ".hidden"])
def test_any_name_that_the_system_takes(name, tmp_path):
    atomic.write_bytes(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_names_the_file(where, tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((Path, "write_bytes") if where == "write" else (os, "fsync")), fail)
    with pytest.raises(OSError, match="No space left") as caught:
        atomic.write_bytes(path, b"new")
    assert in_a_sentence(caught.value) == f"{path}: No space left on device"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.npz"]


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


def test_an_output_replaces_nothing_but_what_this_program_wrote(tmp_path):
    """By its content: a name or a suffix say nothing."""
    ours = tmp_path / "ours.h5"
    with h5py.File(ours, "w") as file:
        file.attrs["schema"] = "dropfold/2"
    atomic.check_target(ours)
    atomic.check_target(tmp_path / "new.h5")
    (tmp_path / "empty.h5").touch()
    atomic.check_target(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["a"] = [1, 2]
    (tmp_path / "text.h5").write_text("my notes on dropfold/2")
    for name in ("theirs.h5", "text.h5"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(
            SchemaError, match=rf"{name} is there and is no data set.*give another --out, or move it"
        ):
            atomic.check_target(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(SchemaError, match="is a folder"):
        atomic.check_target(tmp_path)
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(SchemaError, match="is a device or a pipe"):
        atomic.check_target(tmp_path / "pipe.h5")


NOTES = {
    "a script": (CONVERTED, b"#!/bin/sh\ndropfold convert model_1.t7 --out scenes.safetensors\n"),
    "words in weights": (CONVERTED, b'\x20\0\0\0\0\0\0\0{"dropfold convert":"written by"}'),
    "notes": (atomic.OURS, b"a.ply, b.ply were written by dropfold label\n"),
    "a cloud": (atomic.OURS, b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\nwritten by dropfold\n"),
    "a picture": (atomic.OURS, b"\x89PNG\r\n\x1a\n" + b"tEXtComment\0not written by dropfold"),
    "survey": (atomic.OURS, b"LASF" + bytes(300) + b"written by dropfold"),
}


@pytest.mark.parametrize("what", NOTES)
def test_files_that_speak_of_this_program_are_not_its_own(what, tmp_path):
    own, content = NOTES[what]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(SchemaError, match=rf"is there and is no {own.kind}"):
        atomic.check_target(tmp_path / "file", own)


def test_converted_weights_may_be_converted_again(tmp_path):
    from safetensors.numpy import save_file

    metadata = {"format": "pt", "written by": "dropfold convert"}
    for name, written in (("ours", metadata), ("theirs", {"format": "pt"})):
        save_file({"w": np.zeros(3)}, tmp_path / name, written)
    atomic.check_target(tmp_path / "ours", CONVERTED)
    with pytest.raises(SchemaError, match="is no file of weights that dropfold convert wrote"):
        atomic.check_target(tmp_path / "theirs", CONVERTED)


@pytest.mark.parametrize("suffix", [".ply", ".las", ".txt", ".npy"])
def test_a_labelled_file_may_be_replaced_where_it_says_who_wrote_it(suffix, tmp_path):
    path, points = tmp_path / f"a{suffix}", np.random.default_rng(0).uniform(0, 3, (9, 3))
    write_scene(path, points, None, np.arange(9) % 2)
    says = suffix in (".ply", ".las")
    with (
        contextlib.nullcontext()
        if says
        else pytest.raises(SchemaError, match="would be lost; give another --out")
    ):
        check_target(path)
    path.write_text("x y z\n1 2 3\n")
    with pytest.raises(SchemaError, match="would be lost; give another --out"):
        check_target(path)
    assert path.read_text() == "x y z\n1 2 3\n"
    with pytest.raises(SchemaError, match="move it away, or replace it with --overwrite"):
        check_target(path, overwrite=False)
    check_target(path, overwrite=True)


def test_overwrite_replaces_points_and_the_labels_beside(tmp_path):
    """And nothing else: labels beside another kind of file are somebody's."""
    path, points = tmp_path / "a.pts", np.random.default_rng(0).uniform(0, 3, (9, 3))
    for label in (np.arange(9) % 2, np.arange(9) % 3):
        check_target(path, overwrite=True)
        write_scene(path, points, None, label, overwrite=True)
        assert np.loadtxt(tmp_path / "a.labels").tolist() == label.tolist()
    with pytest.raises(ValueError, match=r"a\.labels would be read as the labels of a\.txt"):
        check_target(tmp_path / "a.txt", overwrite=True)
    with pytest.raises(SchemaError, match="is a device"):
        atomic.check_target(Path("/dev/null"), overwrite=True)


def test_a_link_is_no_place_for_a_file(tmp_path):
    """The file would be renamed to its place, and the link be lost; what it leads to, if anything, would stay as it was."""
    (tmp_path / "there.h5").write_bytes(b"")
    for target in ("there.h5", "nowhere.h5", "link.h5"):
        (tmp_path / "link.h5").unlink(missing_ok=True)
        (tmp_path / "link.h5").symlink_to(tmp_path / target)
        with pytest.raises(
            SchemaError, match=rf"link\.h5 is a link to .*{target}, and would be lost; give --out"
        ):
            atomic.check_target(tmp_path / "link.h5", overwrite=True)
    (tmp_path / "folder").symlink_to(tmp_path)
    atomic.check_target(tmp_path / "folder/new.h5")  # links on the way are followed


@pytest.mark.parametrize(("name", "kind"), [("file", "a file"), ("link", "a link that leads nowhere")])
def test_what_stands_in_the_way_of_a_folder_is_named(name, kind, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        SchemaError, match=rf"^{tmp_path / name} is {kind}, and a folder is needed; give another --out"
    ):
        atomic.make_folder(tmp_path / name)
    for below in ("a", "a/b"):
        message = rf"{name}/{below} cannot be made: {tmp_path / name} is {kind}, and a folder is needed"
        with pytest.raises(SchemaError, match=message):
            atomic.make_folder(tmp_path / name / below)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "mine"
    atomic.make_folder(tmp_path / "new/a")
    atomic.make_folder(tmp_path / "new/a")
