"""Folders of videos become data sets: layouts, faults that are never fatal, interruption and going on."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tyro

from dropfold.data_scripts.readers.decode import Reading, VideoError, read_clip
from dropfold.data_scripts.schemas import video_schema
from dropfold.data_scripts.videos import clips, own_videos
from dropfold.data_scripts.videos.clips import Clip
from dropfold.data_scripts.videos.own_videos import Options
from dropfold.data_scripts.work.errors import SchemaError
from tests.data_scripts.conftest import encode, packet_places, pictures

pytest.importorskip("av")
STATED = {"source": "a test", "credits": "none", "rebuild": "dropfold data videos"}


def options(tmp_path, **changes):
    given = {
        "source": tmp_path / "in",
        "out": tmp_path / "out.h5",
        "frames": 4,
        "size": "32x24",
        "workers": 2,
    }
    return Options(**{**given, **changes})


@pytest.fixture
def folder(tmp_path):
    """Two classes with recordings of two clips each, and one clip that lies in the class folder itself."""
    for c, name in enumerate(("wave", "clap")):
        for recording in range(3):
            for clip in range(2):
                path = tmp_path / "in" / name / f"rec{recording}" / f"{clip}.avi"
                encode(path, pictures(3 + clip * 7, seed=10 * c + recording))
    encode(tmp_path / "in/wave/alone.mp4", pictures(10), "libx264")
    return tmp_path / "in"


def test_a_folder_becomes_a_data_set(folder, tmp_path):
    made, faults = own_videos.convert(options(tmp_path))
    assert faults == []
    assert not (tmp_path / "out.h5.part").exists()
    found = video_schema.read(tmp_path / "out.h5")
    assert found.class_names == ["clap", "wave"]
    assert found.frames.shape == (13, 4, 24, 32, 3)
    assert sorted(found.length) == [3] * 6 + [4] * 7
    assert len(set(found.group)) == 7
    assert {"wave/rec0", "wave/alone.mp4"} < set(found.group)
    for i, name in enumerate(found.name):
        expected = read_clip(folder / name, name, options(tmp_path))
        np.testing.assert_array_equal(found.frames[i, : found.length[i]], expected)
        assert found.class_names[found.label[i]] == name.split("/")[0]
    for group in set(found.group):  # never parted
        members = [i for i, g in enumerate(found.group) if g == group]
        assert len(set(found.split[members])) == len(set(found.group_fold[members])) == 1
    for split in range(3):
        assert set(found.label[found.of(split)]) == {0, 1}
    assert made.name == found.name


def test_the_stated_command_makes_the_file_anew(tmp_path, monkeypatch):
    """Parsed as a shell does: a folder with a space in its name, or given as `.`."""
    folder = tmp_path / "my videos"
    encode(folder / "wave/1.avi", pictures(5))
    encode(folder / "clap/1.avi", pictures(5))
    for source, inside in ((folder, tmp_path), (Path("."), folder)):
        monkeypatch.chdir(inside)
        made, _ = own_videos.convert(options(tmp_path, source=source, sampling="first", every=2, seed=3))
        words = shlex.split(made.rebuild)
        assert words[:3] == ["dropfold", "data", "videos"]
        again = tyro.cli(Options, args=words[3:])
        assert again == options(
            tmp_path, source=Path("my videos"), out=Path("FILE"), sampling="first", every=2, seed=3, workers=0
        )


def test_stated_splits_are_kept(tmp_path):
    for split in ("train", "test"):
        for clip in range(8 if split == "train" else 2):
            encode(tmp_path / "in" / split / "wave" / f"{clip}.avi", pictures(3, seed=clip))
    found, _ = own_videos.convert(options(tmp_path))
    for i, name in enumerate(found.name):
        assert (found.split[i] == 2) == name.startswith("test/")
    assert [len(found.of(split)) for split in range(3)] == [6, 2, 2]


def test_a_recording_may_be_called_test(tmp_path):
    for name in ("wave/monday/test/1.avi", "clap/val/1.avi", "train/wave/1.avi"):
        encode(tmp_path / "in" / name, pictures(3))
    found, _ = own_videos.list_clips(tmp_path / "in")
    assert {clip.name: (clip.classes, clip.group, clip.split) for clip in found} == {
        "wave/monday/test/1.avi": (("wave",), "wave/monday/test", None),
        "clap/val/1.avi": (("clap",), "clap/1.avi", 1),
        "train/wave/1.avi": (("wave",), "wave/1.avi", 0),
    }


def test_what_cannot_be_of_a_class_is_named(tmp_path, capsys):
    """A video beside the class folders or in a split's own folder; a name in bytes of another encoding is read."""
    (tmp_path / "in").mkdir()
    names = ("wave/1.avi", "root.avi", "train/1.avi", "train/wave/2.avi", "test/wave/3.avi")
    for seed, name in enumerate(names):
        encode(tmp_path / "in" / name, pictures(3, seed=seed))
    latin = os.fsencode(tmp_path / "in/wave") + b"/\xe9t\xe9.avi"
    with open(latin, "wb") as file:
        file.write((tmp_path / "in/wave/1.avi").read_bytes())
    clips.run(options(tmp_path), own_videos.convert)
    found = video_schema.read(tmp_path / "out.h5")
    assert found.name == ["test/wave/3.avi", "train/wave/2.avi", "wave/1.avi", r"wave/\xe9t\xe9.avi"]
    assert found.class_names == ["wave"]
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1  # the result alone
    assert [line for line in said.err.splitlines() if line.startswith("note: ")] == [
        "note: 2 files lie in no split folder: they train",
        "note: all videos are of the class wave: training needs two classes or more",
        "note: 2 files were not read, in no class folder: root.avi, train/1.avi",
        "note: 6 files in all: 4 read, 2 not read",
    ]


def test_broken_videos_are_left_out_and_named(folder, tmp_path, small_video):
    (folder / "clap/rec0/0.avi").write_bytes(b"")
    (folder / "clap/rec1/1.avi").write_bytes(small_video[: len(small_video) // 2])
    (folder / "wave/readme.txt").write_text("no video")
    (folder / "wave/.hidden.avi").write_bytes(b"")
    (folder / "jump").mkdir()
    (folder / "sit").mkdir()
    (folder / "sit/a.avi").write_text("renamed")
    found, faults = own_videos.convert(options(tmp_path))
    assert found.class_names == ["clap", "wave"]
    assert len(found.name) == 11
    text = "\n".join(faults)
    for name in (
        "clap/rec0/0.avi is empty",
        "clap/rec1/1.avi",
        "sit/a.avi",
        "1 folder holds no videos: jump",
        "1 file was not read, hidden: wave/.hidden.avi",
        "(1 .txt): wave/readme.txt",
        "16 files in all: 11 read, 5 not read",
        "class sit",
    ):
        assert name in text
    assert len(faults) == 8


def test_a_video_damaged_in_places_keeps_its_good_frames(tmp_path, capsys):
    """And a second start says it, too: what was lost is kept beside the clip."""
    path = encode(tmp_path / "in/wave/1.avi", pictures(20), "mjpeg", "yuvj420p")
    encode(tmp_path / "in/clap/1.avi", pictures(20))
    content = bytearray(path.read_bytes())
    place, size = packet_places(path)[9]
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    given = options(tmp_path, frames=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "_stack_clips", stop)
        with pytest.raises(InterruptedError):
            clips.run(given, own_videos.convert)
    clips.run(given, own_videos.convert)
    assert (
        f"note: {path}: 1 packets or frames are damaged and left out, 19 frames are kept"
        in capsys.readouterr().err
    )
    assert sorted(video_schema.read(given.out).length.tolist()) == [19, 20]
    assert not given.out.with_name(given.out.name + ".part").exists()  # nor what was noted


def stop(*arguments):
    raise InterruptedError


def test_nothing_to_read_is_said(tmp_path):
    (tmp_path / "in/wave").mkdir(parents=True)
    with pytest.raises(SchemaError, match="holds no class folders with videos"):
        own_videos.convert(options(tmp_path))
    (tmp_path / "in/wave/a.avi").write_text("renamed")
    with pytest.raises(SchemaError, match=r"(?s)no video could be read.*a\.avi"):
        own_videos.convert(options(tmp_path))


def die_of_the_bad(path: Path, name: str, reading: Reading) -> np.ndarray:
    """As a decoder that crashes on some video does."""
    if path.read_bytes() == b"deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.read_bytes() == b"odd":
        raise RuntimeError("what is this")
    return np.full((2, 24, 32, 3), 7, np.uint8)


def test_a_video_that_kills_its_process_is_left_out(tmp_path):
    contents = [b"fine"] * 4 + [b"deadly"] + [b"fine"] * 6 + [b"odd", b"deadly", b"fine"]
    listed = []
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.avi").write_bytes(content)
        listed.append(Clip(tmp_path / f"{i}.avi", str(i), ("wave",), str(i)))
    reading = Reading(frames=4, size="32x24", workers=2)
    made, faults = clips.make(tmp_path / "out.h5", listed, ["wave"], reading, STATED, decode=die_of_the_bad)
    assert made.name == [str(i) for i, content in enumerate(contents) if content == b"fine"]
    assert [fault.rpartition("/")[2].split(".avi")[0] for fault in faults] == ["4", "11", "12"]
    assert "killed the process" in faults[0]
    assert "what is this" in faults[1]


# --- going on ----------------------------------------------------------------------------------------------------


def slow(path: Path, name: str, reading: Reading) -> np.ndarray:
    time.sleep(0.3)
    return read_clip(path, name, reading)


INTERRUPTED = """
import signal
import sys
from pathlib import Path
from dropfold.__main__ import end_with_a_sentence
from dropfold.data_scripts.videos import clips, own_videos
from dropfold.data_scripts.videos.own_videos import Options
from tests.data_scripts.videos.test_clips import STATED, slow
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    options = Options(source=Path(sys.argv[1]), out=Path(sys.argv[2]), frames=4, size="32x24", workers=1)
    found, _ = own_videos.list_clips(options.source)
    with end_with_a_sentence():
        clips.run(options, lambda o: clips.make(o.out, found, ["clap", "wave"], o, STATED, decode=slow))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_second_start_goes_on(how, folder, tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out.h5"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(out)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    part = tmp_path / "out.h5.part"
    deadline = time.monotonic() + 60
    while len(list(part.glob("*.npy"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, how)
    said = "".join(process.communicate(timeout=30))
    assert process.returncode
    assert how == signal.SIGKILL or "interrupted; the same command goes on" in said
    done = {path: path.stat().st_mtime_ns for path in part.glob("*.npy")}
    assert 2 <= len(done) < 13
    assert not out.exists()
    seen = []

    given = options(tmp_path)
    wholly = options(tmp_path, out=tmp_path / "whole.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips.pieces, "end", lambda path: seen.append(sorted(path.glob("*.npy"))))
        found, faults = own_videos.convert(given)
        patch.undo()
    assert faults == []
    assert {path: path.stat().st_mtime_ns for path in done} == done  # not decoded again
    assert len(seen[0]) == 13
    whole, _ = own_videos.convert(wholly)
    np.testing.assert_array_equal(found.frames, whole.frames)
    assert video_schema.read(out).checksum == video_schema.read(wholly.out).checksum


def test_a_mended_video_of_the_same_size_is_read_anew(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"before")
    clip, place = Clip(path, "a.gif", ("wave",), "a"), {}
    for content in (b"before", b"broken", b"before"):
        path.write_bytes(content)
        os.utime(path, ns=(len(place), len(place)))
        place[clips._clip_path(tmp_path, clip)] = content
    assert len(place) == 2


def test_other_options_do_not_go_on(folder, tmp_path):
    (tmp_path / "out.h5.part").mkdir()
    (tmp_path / "out.h5.part/options.json").write_text('"--frames 9"')
    with pytest.raises(
        SchemaError, match=r"out\.h5\.part was begun with --frames 9; give these options again"
    ):
        own_videos.convert(options(tmp_path))


def test_no_process_outlives_a_killed_parent(folder, tmp_path):
    """Processes that waited for another video held their memory until the machine went down."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(tmp_path / "out.h5")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,  # held open by each process of the pool
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out.h5.part").glob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    try:
        process.communicate(timeout=20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


LIMITED = """
import resource, sys
from dropfold.__main__ import main
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
    main(["data", "videos", *sys.argv[1:]])
"""


@pytest.mark.parametrize("limit", [9_000, 50_000], ids=["clip", "stack"])
def test_a_disk_that_fills_is_a_sentence_and_the_next_start_goes_on(limit, folder, tmp_path):
    """A limit on the size of files fails a write as a full disk does: that of a clip, or of all clips together."""
    script, out = tmp_path / "script.py", tmp_path / "out.h5"
    script.write_text(LIMITED)
    given = ["--source", folder, "--out", out, "--frames", "4", "--size", "32x24", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, script, str(limit), *given],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "File too large; once that is mended, the same command goes on" in done.stderr
    assert not out.exists()
    own_videos.convert(options(tmp_path))
    own_videos.convert(options(tmp_path, out=tmp_path / "whole.h5"))
    assert video_schema.read(out).checksum == video_schema.read(tmp_path / "whole.h5").checksum


def test_two_videos_of_one_name_are_named(folder, tmp_path):
    """They would be one file while decoding, and stand in training and test."""
    listed = [Clip(folder / f"wave/rec0/{i}.avi", "same.avi", ("wave",), "rec0") for i in range(2)]
    with pytest.raises(SchemaError, match=r"rec0/0\.avi and .*rec0/1\.avi are both same\.avi"):
        clips.make(tmp_path / "out.h5", listed, ["wave"], options(tmp_path), STATED)


def test_a_fault_while_decoding_is_a_sentence():
    with pytest.raises(VideoError, match="is not there"):
        read_clip(Path("nowhere.avi"), "nowhere", Reading())


def test_files_on_both_sides_of_a_split_are_said(tmp_path, capsys):
    for name, seed in (
        ("train/wave/1", 1),
        ("train/clap/2", 2),
        ("train/clap/3", 3),
        ("test/wave/4", 1),
        ("test/clap/5", 5),
    ):
        encode(tmp_path / "in" / f"{name}.avi", pictures(3, seed=seed))
    found, _ = own_videos.convert(options(tmp_path))
    assert len(found.name) == 5
    assert (
        "note: 1 clip that tests is known from training, which flatters the scores: test/wave/4.avi -> train/wave/1.avi"
        in capsys.readouterr().err.replace("\n", " ")
    )
