"""S3DIS's layout with small rooms in it: whole, with its known faults, broken, archived, interrupted."""

import json
import signal
import tarfile
import zipfile

import numpy as np
import pytest

from dropfold.data_scripts.scenes import room_jobs, s3dis
from dropfold.data_scripts.scenes.s3dis import CLASSES, Options, convert
from dropfold.data_scripts.schemas import scene_schema
from dropfold.data_scripts.schemas.scene_schema import TEST, TRAIN, VALIDATION, SchemaError
from dropfold.data_scripts.work.errors import ArchiveError
from dropfold.data_scripts.work.processes import identify


def rows(m, seed):
    random = np.random.default_rng(seed)
    xyz = (random.uniform(0, 1, (m, 3)) * [5, 4, 2.7] + [-20, 30, 0.1]).round(3)
    return np.column_stack([xyz, random.integers(0, 256, (m, 3))])


def text(table):
    return "".join(
        "{:.3f} {:.3f} {:.3f} {:.0f} {:.0f} {:.0f}\n".format(*row) for row in table.tolist()
    ).encode()


FILES = {"ceiling_1": 40, "floor_1": 30, "chair_1": 20, "chair_10": 25, "stairs_1": 15}


def layout(root, areas=(1, 2, 5), rooms=("hallway_6", "office_1", "office_2")):
    for area in areas:
        for k, room in enumerate(rooms):
            folder = root / f"Area_{area}" / room / "Annotations"
            folder.mkdir(parents=True)
            for i, (name, m) in enumerate(FILES.items()):
                (folder / f"{name}.txt").write_bytes(text(rows(m, 100 * area + 10 * k + i)))
            (folder.parent / f"{room}.txt").write_bytes(b"not read")
            (folder / ".DS_Store").write_bytes(b"\x00")
        (root / f"Area_{area}" / f"Area_{area}_alignmentAngle.txt").write_text("## 90")
    return root


def made(source, out, **options):
    return convert(Options(source=source, out=out / "a.h5", **options))


def test_every_room_is_converted(tmp_path):
    source = layout(tmp_path / "Stanford3dDataset_v1.2_Aligned_Version")
    scenes, notes = made(source, tmp_path)
    assert scenes.name[:2] == ["Area_1/hallway_6", "Area_1/office_1"]
    assert scenes.area.tolist() == [1] * 3 + [2] * 3 + [5] * 3
    assert scenes.split[6:].tolist() == [TEST] * 3
    assert sorted(scenes.split[:6].tolist()) == [TRAIN] * 5 + [VALIDATION]
    assert scenes.class_names == list(CLASSES)
    assert "Armeni" in scenes.credits
    expected = np.concatenate([rows(m, 520 + i) for i, m in enumerate(FILES.values())])
    label = np.repeat(
        [CLASSES.index(c) for c in ("ceiling", "floor", "chair", "chair", "clutter")], list(FILES.values())
    )
    names = sorted(FILES)  # files are read in the order of their names
    order = np.concatenate(
        [np.flatnonzero(np.repeat(list(FILES), list(FILES.values())) == name) for name in names]
    )
    room = scenes.room(8)
    # millimetres read in double, shifted, then rounded once to float32 below 8 m
    np.testing.assert_allclose(room.points, (expected - expected.min(0))[order, :3], rtol=0, atol=2.5e-7)
    np.testing.assert_allclose(scenes.origin[8], expected[:, :3].min(0), rtol=1e-15)
    np.testing.assert_array_equal(room.colour, expected[order, 3:])
    np.testing.assert_array_equal(room.label, label[order])
    assert len(notes) == 11
    assert notes[9].startswith("9 files were not read, hidden: Area_1/hallway_6/Annotations/.DS_Store, ")
    assert notes[10] == "66 files in all: 45 read, 12 beside them (12 .txt), 9 not read"
    assert "Area_1/hallway_6/Annotations: 1 of stairs, none of the 13 classes, now clutter" in notes[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Stanford3dDataset_v1.2_Aligned_Version",
        "a.h5",
    ]


def test_any_areas_and_what_a_folder_states(tmp_path):
    source = layout(tmp_path / "rooms_raw", areas=(1, 2, 3, 11))
    (source / "about.json").write_text(
        json.dumps({"source": "made", "credits": "CC", "rebuild": "make rooms"})
    )
    scenes, _ = made(source, tmp_path, test_area=2, validation=0)
    assert set(scenes.area[scenes.of(TEST)]) == {2}
    assert len(scenes.of(VALIDATION)) == 0
    assert (scenes.source, scenes.credits) == ("made", "CC")
    assert scenes.rebuild.startswith("make rooms; dropfold data s3dis --source rooms_raw --test-area 2")
    assert set(np.unique(made(source, tmp_path)[0].area[made(source, tmp_path)[0].of(TEST)])) == {11}
    with pytest.raises(SchemaError, match="area 7 was asked for"):
        made(source, tmp_path, test_area=7)
    (source / "about.json").write_text("[]")
    with pytest.raises(SchemaError, match=r"about\.json is not JSON with source"):
        made(source, tmp_path)


def test_an_archive_gives_the_same(tmp_path):
    folder, path = layout(tmp_path / "raw"), tmp_path / "raw.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one in sorted(folder.rglob("*")):
            file.write(one, f"Stanford3d/{one.relative_to(folder)}")
    with tarfile.open(tmp_path / "raw.tar.gz", "w:gz") as file:
        file.add(folder, "Stanford3d")
    one, _ = made(folder, tmp_path)
    assert made(tmp_path / "raw.tar.gz", tmp_path / "c")[0].digest == one.digest
    other, notes = made(path, tmp_path / "b")
    assert other.digest == one.digest
    assert "raw.zip: Stanford3d/Area_1/hallway_6/Annotations: 1 of stairs" in notes[0]


def test_a_line_with_a_strange_byte_is_mended_and_said(tmp_path):
    source = layout(tmp_path / "raw")
    path = source / "Area_5/hallway_6/Annotations/ceiling_1.txt"
    lines = path.read_bytes().split(b"\n")
    lines[7] = b"-18.374 31.211 2.6\x149 185\x00187 182"
    path.write_bytes(b"\n".join(lines))
    (path.parent / "ceiling").write_bytes(b"")
    (path.parent / "board_1.txt").write_bytes(b"")
    (path.parent / "floor_1 (1).txt").write_bytes(
        (path.parent / "floor_1.txt").read_bytes()
    )  # as in Area_5/office_36
    scenes, notes = made(source, tmp_path)
    room = scenes.room(6)
    assert scenes.sizes[6] == 130
    assert [185, 187, 182] in room.colour.tolist()
    said = [note for note in notes if "Area_5/hallway_6" in note]
    assert (
        f"{path}, line 8: '-18.374 31.211 2.6\\x149 185\\x00187 182' read as -18.374 31.211 2.649 185 187 182"
        in said
    )
    assert "1 file was not read, no .txt among the annotations: Area_5/hallway_6/Annotations/ceiling" in said
    assert f"{path.parent / 'board_1.txt'} holds no points" in said
    assert f"{path.parent / 'floor_1 (1).txt'} is a copy of floor_1.txt, not read" in said
    (path.parent / "floor_1 (1).txt").write_bytes(b"1 2 3 4 5 6\n")
    with pytest.raises(
        SchemaError, match=r"floor_1 \(1\)\.txt is another file than floor_1\.txt; remove one of them"
    ):
        made(source, tmp_path)


def test_another_unit_among_the_rooms_is_noted(tmp_path):
    """One room is in millimetres: it is refused without --unit, and with it all others are a few millimetres large."""
    source = layout(tmp_path / "raw")
    for path in (source / "Area_2/office_1/Annotations").glob("*.txt"):
        table = np.loadtxt(path)
        table[:, :3] *= 1000
        path.write_bytes(text(table))
    with pytest.raises(SchemaError, match=r"Area_2/office_1/Annotations spans .* is it mm"):
        made(source, tmp_path)
    _, notes = made(source, tmp_path, unit="mm")
    said = [note for note in notes if "with --unit mm: is it in another unit than the others?" in note]
    assert len(said) == 8
    assert not any("Area_2/office_1" in note for note in said)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 2 3 4 5 6\n1 2 3 4 5\n", r"chair_1\.txt, line 2: '1 2 3 4 5' is not `x y z r g b`"),
        (b"1 2 3 4 5 6\n1 2 3 4 5 256", r"chair_1\.txt, line 2: '1 2 3 4 5 256'"),
        (b"1 2 3 4 5 6\n1 2 3 4 5 0.5", r"chair_1\.txt, line 2: '1 2 3 4 5 0.5'"),
        (b"1 2 3 4 5 6\n1 2 3 18\x00599 5 6\n", r"chair_1\.txt, line 2: '1 2 3 18\\x00599 5 6'"),
        (b"\x89PNG\n" * 99, r"line 5:.*\n.*chair_1\.txt has more such lines; is it another kind of file"),
        (
            b"1.5 1 2 185\x00187 182\n" * 150,  # each could be mended; a kind of file that S3DIS is not
            r"chair_1\.txt has 100 bad lines or more, the first is line 1",
        ),
        (b"1000 2000 3000 1 2 3\n", r"Annotations spans .* is it mm .* Give --unit"),
    ],
)
def test_a_bad_line_stops_nothing_but_the_file(content, message, tmp_path):
    source = layout(tmp_path / "raw")
    bad, worse = (source / f"Area_{area}/office_1/Annotations/chair_1.txt" for area in (2, 5))
    whole = bad.read_bytes()
    bad.write_bytes(content)
    (worse.parent.parent / "Annotations").rename(worse.parent.parent / "Notes")
    with pytest.raises(SchemaError, match=message) as caught:
        made(source, tmp_path)
    said = str(caught.value)
    assert "2 of 9 rooms cannot be read" in said
    assert "Area_5/office_1: the room has no points" in said
    assert "--leave-out Area_2/office_1 Area_5/office_1" in said
    assert not (tmp_path / "a.h5").exists()
    assert len(list((tmp_path / "a.h5.part").iterdir())) == 7  # the others are finished
    (worse.parent.parent / "Notes").rename(worse.parent)
    bad.write_bytes(whole + b"\n")
    scenes, notes = made(source, tmp_path, leave_out=("Area_5/office_1",))
    assert len(scenes) == 8
    assert notes[-1] == "Area_5/office_1 was left out"
    with pytest.raises(SchemaError, match="--leave-out names 'Area_9/x', which is not there"):
        made(source, tmp_path, leave_out=("Area_9/x",))


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch):
    source = layout(tmp_path / "raw")
    read, seen = s3dis.read_room, []

    def few(source, files, *rest):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(files[0].name)
        return read(source, files, *rest)

    monkeypatch.setattr(s3dis, "read_room", few)
    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path, workers=1)
    assert not (tmp_path / "a.h5").exists()
    first = set(seen)
    dead = f"{identify().rpartition('-')[0]}-1"
    (tmp_path / "a.h5.part" / f".x.dropfold-{dead}-01234567.tmp").write_bytes(b"half")  # what a kill leaves
    (source / "Area_1/hallway_6/Annotations/floor_1.txt").write_bytes(
        text(rows(31, 7))
    )  # finished, and changed since

    def rest(source, files, *rest):
        seen.append(files[0].name)
        return read(source, files, *rest)

    seen.clear()
    monkeypatch.setattr(s3dis, "read_room", rest)
    scenes, _ = made(source, tmp_path)
    again = {name for name in seen if name in first}
    assert all("Area_1/hallway_6" in name for name in again)
    assert len(seen) == 9 - len(first) + len(again)
    assert scenes.sizes[0] == 131
    assert not (tmp_path / "a.h5.part").exists()
    fresh, _ = made(source, tmp_path / "fresh")
    assert fresh.checksum == scenes.checksum


def test_a_kill_while_writing_keeps_what_is_finished(tmp_path, monkeypatch):
    source = layout(tmp_path / "raw")
    add, count = scene_schema.Writer.add, []

    def die(self, *arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        add(self, *arguments)

    monkeypatch.setattr(scene_schema.Writer, "add", die)
    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.h5.part", "raw"]
    monkeypatch.setattr(scene_schema.Writer, "add", add)
    monkeypatch.setattr(s3dis, "read_room", None)  # nothing is read again
    assert len(made(source, tmp_path)[0]) == 9


@pytest.mark.parametrize("moment", ["s3dis.read_room", "room_jobs.scene_schema.Writer.add"])
def test_a_killed_conversion_goes_on(moment, tmp_path, run_python):
    source = layout(tmp_path / "raw")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom dropfold.data_scripts.scenes import room_jobs, s3dis\n"
        f"whole, count = {moment}, []\n"
        "def act(*a):\n    count.append(1)\n"
        "    return whole(*a) if len(count) < 5 else os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{moment} = act\n"
        "s3dis.convert(s3dis.Options(source=Path(sys.argv[1]), out=Path(sys.argv[2]), workers=1))\n"
    )
    done = run_python("-c", code, str(source), str(tmp_path / "a.h5"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5.part", "raw"]
    assert len(list((tmp_path / "a.h5.part").glob("*.npz"))) == (4 if moment == "s3dis.read_room" else 9)
    scenes, _ = made(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "raw"]
    assert scenes.checksum == made(source, tmp_path / "fresh")[0].checksum


def test_faults_of_a_source_are_named(tmp_path):
    with pytest.raises(ArchiveError, match="is not there"):
        made(tmp_path / "nothing", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchemaError, match="holds no Area_N/ROOM/Annotations"):
        made(tmp_path / "empty", tmp_path)
    layout(tmp_path / "twice/a", areas=(1,))
    layout(tmp_path / "twice/b", areas=(1,))
    with pytest.raises(SchemaError, match="holds Area_1/hallway_6 twice"):
        made(tmp_path / "twice", tmp_path)


def test_a_broken_archive_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../Area_1/office_1/Annotations/chair_1.txt", text(rows(9, 0)))
    with pytest.raises(ArchiveError, match=r"a\.zip holds '\.\./Area_1.*nothing was unpacked"):
        made(path, tmp_path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("Area_1/office_1/Annotations/chair_1.txt", text(rows(9, 0)))
    content = bytearray(path.read_bytes())
    content[70] ^= 1  # within the stored text
    path.write_bytes(content)
    with pytest.raises(
        SchemaError, match=r"a\.zip: Area_1/office_1/Annotations/chair_1\.txt is broken \(Bad CRC"
    ):
        made(path, tmp_path)
    path.write_bytes(content[:-30])
    with pytest.raises(ArchiveError, match=r"a\.zip is no whole zip, tar or rar archive \(truncated\?\)"):
        made(path, tmp_path)
    assert not (tmp_path / "a.h5").exists()


def test_the_command_says_what_was_odd_and_what_a_restart_does(tmp_path, capsys):
    options = Options(source=layout(tmp_path / "raw"), out=tmp_path / "a.h5")
    room_jobs.run(options, convert)
    said, noted = capsys.readouterr()
    assert "[5, 1, 3] rooms to train, validate and test, 1,170 points, 13 classes, 3 areas" in said
    assert (said.count("note: "), noted.count("note: ")) == (0, 11)
    for error in (OSError("no room"), KeyboardInterrupt()):

        def fail(options, error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            room_jobs.run(options, fail)
        assert caught.value.__notes__ == ["the same command goes on from here"]
