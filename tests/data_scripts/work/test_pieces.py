"""Conversions that are killed, run out of disk or have a neighbour: the same data set, and nothing foreign gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from dropfold.data_scripts.scenes import s3dis
from dropfold.data_scripts.schemas import scene_schema
from dropfold.data_scripts.work import pieces
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.processes import LOCK, hold_folder
from tests.data_scripts.scenes.test_s3dis import layout

ROOT = Path(__file__).parents[3]
FOREIGN = (".env", "notes.txt", "cut.tmp", ".x.npz.abcd1234.tmp", "0123.npz")
SCRIPT = """
import json, os, resource, sys
from pathlib import Path
from dropfold.data_scripts.scenes import s3dis
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import in_a_sentence
from tests.killing import kill_at_random, start, wait
source, out = Path(sys.argv[1]), Path(sys.argv[2])

def convert():
    s3dis.convert(s3dis.Options(source=source, out=out, workers=2))
"""
KILL = """
def restart():
    os.rename(out, out.with_name(f"whole-{len(list(out.parent.glob('whole-*')))}.h5"))
kill_at_random(convert, int(sys.argv[3]), (0.0, 0.4), restart)
"""
FULL = """
def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        convert()
    except (OSError, ValueError) as error:
        print(in_a_sentence(error), flush=True)
        return
    print("fitted", flush=True)
assert wait(start(fill)) == 0
assert wait(start(convert)) == 0
"""
WRITE = """
def write():
    for name in ("a", "b"):
        text = (out / name).read_text() if (out / name).exists() else ""
        assert text == text[:5] * (len(text) // 5), name  # whole: one version, the old or the new
    for number in range(10_000, 10_000 + int(sys.argv[4])):
        for name in ("a", "b"):
            atomic.write_bytes(out / name, str(number).encode() * 5_000)
(out / ".env").write_text("mine")
kill_at_random(write, int(sys.argv[3]), (0.01, 0.2), lambda: None)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return layout(tmp_path_factory.mktemp("data") / "raw")


@pytest.fixture(scope="module")
def checksum(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "a.h5"
    return s3dis.convert(s3dis.Options(source=source, out=out))[0].checksum


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(kills, source, checksum, tmp_path, run_python):
    part = tmp_path / "a.h5.part"
    part.mkdir()
    for name in FOREIGN:
        (part / name).write_text("mine")
    done = run_python("-c", SCRIPT + KILL, str(source), str(tmp_path / "a.h5"), str(kills))
    assert done.returncode == 0, done.stderr[-3000:]
    made = list(tmp_path.glob("*.h5"))
    assert made
    assert {scene_schema.read(path).checksum for path in made} == {checksum}
    assert {path.name for path in part.iterdir()} == set(FOREIGN)
    assert all((part / name).read_text() == "mine" for name in FOREIGN)
    assert "stays: it holds" in done.stderr


@pytest.mark.parametrize("limit", [9_000, pytest.param(700, marks=pytest.mark.slow)])
def test_a_full_disk_names_the_file_and_the_conversion_goes_on(limit, source, checksum, tmp_path, run_python):
    done = run_python("-c", SCRIPT + FULL, str(source), str(tmp_path / "a.h5"), str(limit))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a.h5" in done.stdout
    assert "large" in done.stdout.lower() or "could not be written" in done.stdout
    assert scene_schema.read(tmp_path / "a.h5").checksum == checksum
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_while_writing_leave_whole_files(kills, tmp_path, run_python):
    done = run_python("-c", SCRIPT + WRITE, "", str(tmp_path), str(kills), "100")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} == {".env", "a", "b"}
    assert (tmp_path / "a").read_text() == "10099" * 5_000


def test_two_conversions_at_once(source, checksum, tmp_path):
    """The second is told which process has the folder."""
    command = [
        sys.executable,
        "-m",
        "dropfold",
        "data",
        "s3dis",
        "--source",
        str(source),
        "--out",
        str(tmp_path / "a.h5"),
    ]
    both = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert 0 in [process.returncode for process in both], said
    for process, text in zip(both, said):
        assert (
            process.returncode == 0
            or f"is being written to by process {both[both[0] is process].pid}" in text
        )
        assert "Traceback" not in text
    assert scene_schema.read(tmp_path / "a.h5").checksum == checksum
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_folder_in_use_is_refused(source, tmp_path):
    (tmp_path / "a.h5.part").mkdir()
    with (
        hold_folder(tmp_path / "a.h5.part", "written to"),
        pytest.raises(ValueError, match=r"a\.h5\.part is being written to by"),
    ):
        s3dis.convert(s3dis.Options(source=source, out=tmp_path / "a.h5"))
    assert not list((tmp_path / "a.h5.part").iterdir())


def test_a_file_in_the_place_of_the_folder_stays(source, tmp_path):
    (tmp_path / "a.h5.part").write_text("mine")
    with pytest.raises(
        SchemaError, match=r"a\.h5\.part is a file, .*move the file away, or give another --out"
    ):
        s3dis.convert(s3dis.Options(source=source, out=tmp_path / "a.h5"))
    assert (tmp_path / "a.h5.part").read_text() == "mine"


def test_a_damaged_piece_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_schema, "writer", lambda *_, **__: 1 / 0)
    options = s3dis.Options(source=source, out=tmp_path / "a.h5")
    with pytest.raises(ZeroDivisionError):
        s3dis.convert(options)
    monkeypatch.undo()
    for path in (tmp_path / "a.h5.part").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    with pytest.raises(
        SchemaError, match=r"finished piece of Area_1/hallway_6, is damaged .*delete it and give the same"
    ):
        s3dis.convert(options)


def test_an_error_releases_the_folder(tmp_path):
    @pieces.releasing()
    def fail():
        pieces.begin(tmp_path / "a.h5")
        pieces.begin(tmp_path / "a.h5")  # the same process, again
        assert (tmp_path / "a.h5.part" / LOCK).exists()
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fail()
        assert not (tmp_path / "a.h5.part" / LOCK).exists()
