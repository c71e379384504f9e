"""A folder of 100 files with every fault a folder may have, for each command: what is read and what is named are all."""

import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.scenes import own_scenes, s3dis
from dropfold.data_scripts.schemas import scene_schema, shape_schema, video_schema
from dropfold.data_scripts.shapes import own_meshes
from dropfold.data_scripts.videos import own_videos
from tests.data_scripts.conftest import encode, pictures

TOTAL = re.compile(
    r"(?P<all>\d+) files? in all: (?P<read>\d+) read(?:, (?P<beside>\d+) beside them \([^)]*\))?"
    r"(?:, (?P<asked>\d+) left out as asked)?(?:, (?P<unread>\d+) not read)?$",
    re.M,
)


def put(root, name, content=b"1"):
    """Write a file whose name is bytes."""
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def count_files(root):
    """All that a folder holds but folders and links to folders, by another walk than ours."""
    return sum(
        not (path := os.path.join(place, name)).endswith(b"/") and not os.path.isdir(path)
        for place, _, names in os.walk(os.fsencode(root))
        for name in names
    )


def check_sums(said, files):
    """The figures of the notes add up to all files; returns (read, beside, not read)."""
    total = TOTAL.search(said)
    assert total, said
    figures = {name: int(value or 0) for name, value in total.groupdict().items()}
    assert figures["all"] == files
    assert figures["all"] == figures["read"] + figures["beside"] + figures["asked"] + figures["unread"]
    lines = re.findall(r"(\d+) files? (?:was|were) not read, ", said)
    copies = len(re.findall(r" is a copy of .*, not read$", said, re.M))
    assert sum(map(int, lines)) + copies == figures["unread"]
    return figures["read"], figures["beside"], figures["unread"]


def plant(root, outside, suffix, content):
    """100 files; returns the names of those that are to be read but for loose ones, and of those that are not."""
    read = [b"%s/%d" % (name, i) for name in (b"ball", b"box", b"train") for i in range(6)]
    read += [
        b"ball/caf\xe9",
        b"ball/new\nline",
        b"ball/" + b"x" * 240,
        "box/\u00e9".encode(),
        "box/e\u0301".encode(),
    ]
    read += [b"box/A", b"box/a", b"ball/deep/er/1", b"Ball/1"]
    for name in read:
        put(root, name + suffix, content)
    for i in range(5):
        put(outside, b"cone/%d" % i + suffix, content)
    os.symlink(outside / "cone", root / "cone")
    read += [b"cone/%d" % i for i in range(5)]
    unread = [b".DS_Store", b"ball/._0" + suffix, b".git/config", b".git/objects/ab", b"__MACOSX/ball/._1"]
    unread += [b"box/note.md", b"mug/0.zzz", b"mug/1.zzz", b"box/0.bak", b"ball/noend"]
    for name in unread:
        put(root, name)
    pictures = [b"box/%02d.jpg" % i for i in range(50)]
    for name in pictures:
        put(root, name)
    os.symlink("nowhere", root / "ball/gone.one")
    os.symlink("l2", root / "l1")
    os.symlink("l1", root / "l2")
    os.symlink("../ball/0" + suffix.decode(), root / f"box/again{suffix.decode()}")
    os.link(root / ("ball/1" + suffix.decode()), root / f"box/hard{suffix.decode()}")
    os.mkfifo(root / "ball/pipe.one")
    put(root, b"ball/locked" + suffix, content)
    unread += [
        b"ball/gone.one",
        b"l1",
        b"l2",
        b"box/again" + suffix,
        b"box/hard" + suffix,
        b"ball/pipe.one",
        b"ball/locked" + suffix,
    ]
    put(root, b"loose" + suffix, content)
    os.symlink("..", root / "ball/loop")
    os.symlink(root.parent, root / "above")
    os.symlink("ball", root / "alias")
    (root / "empty").mkdir()
    assert count_files(root) + count_files(outside) == 100
    return [name + suffix for name in read], unread + pictures[:1]


@pytest.fixture
def locked(monkeypatch):
    """Files called `locked` may not be read, by whomever."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode))


def text(columns):
    return "".join(" ".join(f"{v:.3f}" for v in row) + "\n" for row in columns).encode()


CLOUD = text(np.random.default_rng(0).uniform(0, 3, (40, 3)))
SCENE = b"x y z r g b label\n" + text(
    np.column_stack([np.random.default_rng(0).uniform(0, 3, (40, 3)), np.full((40, 3), 7), np.arange(40) % 2])
).replace(b".000", b"")


def run(command, source, out, capsys, **options):
    """What a command made and printed."""
    kind = {"meshes": own_meshes, "scenes": own_scenes, "videos": own_videos, "s3dis": s3dis}[command]
    read = {"meshes": shape_schema.read, "videos": video_schema.read}.get(command, scene_schema.read)
    more = {"meshes": {"points": 16}, "videos": {"frames": 2, "size": "16x12", "workers": 2}}.get(command, {})
    kind.main(kind.Options(source=source, out=out, **more, **options))
    return read(out), "".join(capsys.readouterr())


@pytest.mark.parametrize("command", ["meshes", "scenes", "videos"])
def test_read_and_named_are_all(command, tmp_path, locked, capsys):
    if command == "videos":
        pytest.importorskip("av")
        content = encode(tmp_path / "a.avi", pictures(3, 32, 24)).read_bytes()
    else:
        content = CLOUD if command == "meshes" else SCENE
    suffix = {"meshes": b".xyz", "scenes": b".txt", "videos": b".avi"}[command]
    read, unread = plant(tmp_path / "in", tmp_path / "out/there", suffix, content)
    answer = {"split_folders": "no"} if command == "scenes" else {}
    found, said = run(command, tmp_path / "in", tmp_path / "a.h5", capsys, **answer)
    loose = [] if command == "scenes" else [b"loose" + suffix]
    read = read if loose else [*read, b"loose" + suffix]
    assert check_sums(said, 100) == (len(read), 0, 100 - len(read))
    shown = [name.decode("utf-8", "backslashreplace").replace("\n", r"\n") for name in read]
    assert sorted(found.name) == sorted(shown)
    for name in unread + loose:
        assert name.decode() in said
    assert "2 folders hold no" in said
    assert all(f"{link} ->" in said for link in ("ball/loop", "above", "alias"))
    assert "'Ball' and 'ball'" in said
    if command != "scenes":
        assert found.class_names == ["Ball", "ball", "box", "cone", "train"]
        assert "train is taken as a class, beside" in said


PLACES = np.random.default_rng(0).uniform(0, 3, (20, 3))
ROWS = "".join(f"{x:.2f} {y:.2f} {z:.2f} 1 2 3\n" for x, y, z in PLACES).encode()


def plant_rooms(root, outside):
    """S3DIS's layout; returns how many annotations are to be read, and the names that are to be said."""
    rooms = [b"Area_1/office_1", b"Area_1/office_2", b"Area_2/hall_1", b"Area_2/caf\xe9"]
    for room in rooms:
        put(root, room + b"/" + room.rpartition(b"/")[2] + b".txt")
    for room in [*rooms, b"Area_5/hall_1"]:
        for name in (b"chair_1", b"floor_1", b"wall_1"):
            put(outside if b"Area_5" in room else root, room + b"/Annotations/" + name + b".txt", ROWS)
    os.symlink(outside / "Area_5", root / "Area_5")
    os.symlink("Area_1", root / "Area_6")
    os.symlink("..", root / "Area_2/loop")
    os.symlink("nothing", root / "Area_4")
    unread = [b".DS_Store", b"Area_1/office_1/Annotations/.DS_Store", b"Area_1/office_1/Annotations/notes.doc",
              b"Area_1/office_1/Annotations/chair_1.txt~", b"Area_2/hall_1/extra/a.txt", b"thumbs.db"]  # fmt: skip
    for name in unread:
        put(root, name)
    put(root, b"Area_1/office_2/Annotations/chair_1 (1).txt", ROWS)
    put(root, b"Area_1/Area_1_alignmentAngle.txt")
    (root / "Area_2/later").mkdir()
    names = [*unread, b"Area_6", b"Area_2/loop", b"Area_4", b"Area_2/later", b"chair_1 (1).txt"]
    return 15, [name.decode() for name in names]


def test_read_and_named_are_all_of_s3dis(tmp_path, capsys):
    files, names = plant_rooms(tmp_path / "in", tmp_path / "out")
    found, said = run("s3dis", tmp_path / "in", tmp_path / "a.h5", capsys)
    total = count_files(tmp_path / "in") + count_files(tmp_path / "out")
    assert check_sums(said, total) == (files, 5, total - files - 5)
    assert found.name == [
        "Area_1/office_1",
        "Area_1/office_2",
        r"Area_2/caf\xe9",
        "Area_2/hall_1",
        "Area_5/hall_1",
    ]
    assert found.split[-1] == scene_schema.TEST  # a linked area is read
    assert found.sizes.tolist() == [60] * 5
    for name in names:
        assert name in said


def test_a_room_without_a_part_is_not_made(tmp_path, locked):
    """A link to an annotation that is gone: the room would lack it. Left out as asked, it is named."""
    plant_rooms(tmp_path / "in", tmp_path / "out")
    os.symlink("nothing", tmp_path / "in/Area_1/office_1/Annotations/door_1.txt")
    put(tmp_path / "in", b"Area_2/hall_1/Annotations/locked_1.txt")
    with pytest.raises(
        scene_schema.SchemaError, match=r"(?s)2 of 5 .*door_1\.txt cannot be read: links.*locked_1\.txt"
    ):
        s3dis.convert(s3dis.Options(source=tmp_path / "in", out=tmp_path / "a.h5"))
    gone = ("Area_1/office_1", "Area_2/hall_1")
    _, notes = s3dis.convert(s3dis.Options(source=tmp_path / "in", out=tmp_path / "a.h5", leave_out=gone))
    check_sums("\n".join(notes), count_files(tmp_path / "in") + count_files(tmp_path / "out"))


def lines_after_first(said):
    """Without the lines of a progress bar, whose speed differs."""
    return [line for line in said.splitlines()[1:] if "━" not in line]


@pytest.mark.parametrize("command", ["meshes", "scenes", "s3dis"])
def test_an_archive_is_the_folder_that_it_was_made_of(command, tmp_path, capsys):
    """Hidden files, doubles, empty folders, names that are not UTF-8 (in a tar)."""
    root = tmp_path / "in"
    names = {
        "meshes": ["ball/1.xyz", "ball/2.xyz", "box/deep/1.xyz", "train/1.xyz", "1.xyz", "a.jpg", ".x", "box/n.md"],
        "scenes": ["east/1.txt", "west/2.txt", "west/2.labels", "west/.DS_Store", "west/x.doc", "3.txt"],
        "s3dis": ["Area_1/a/Annotations/chair_1.txt", "Area_1/b/Annotations/chair_1.txt", "Area_1/a/a.txt", "x.pdf", ".y"],
    }[command]  # fmt: skip
    content = {"meshes": CLOUD, "scenes": SCENE, "s3dis": ROWS}[command]
    for name in names:
        put(root, name.encode(), b"0\n1\n" * 20 if name.endswith(".labels") else content)
    empty = "Area_1/empty" if command == "s3dis" else "empty"
    (root / empty).mkdir()
    expected, said = run(command, root, tmp_path / "a.h5", capsys)
    assert "holds no" in said
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
        for one in sorted(root.rglob("*")):
            file.write(one, f"./{one.relative_to(root)}" if command == "s3dis" else one.relative_to(root))
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as file:  # as old programs of Windows write them
        for one in sorted(root.rglob("*")):
            info = zipfile.ZipInfo(
                str(one.relative_to(root)).replace("/", "\\") + ("/" if one.is_dir() else "")
            )
            info.create_system = 0
            file.writestr(info, b"" if one.is_dir() else one.read_bytes())
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as file:
        file.add(root, ".")
    for archive in ("in.zip", "in.tar.gz", "windows.zip"):
        found, again = run(command, tmp_path / archive, tmp_path / "b.h5", capsys)
        assert lines_after_first(again) == lines_after_first(said)
        assert (found.name, found.class_names) == (expected.name, expected.class_names)
    if command != "meshes":
        return
    put(root, b"ball/caf\xe9.xyz", CLOUD)
    with tarfile.open(tmp_path / "in.tar", "w") as file:
        file.add(root, "in")
    found, again = run(command, tmp_path / "in.tar", tmp_path / "b.h5", capsys)
    assert r"in/ball/caf\xe9.xyz" in found.name
    assert "all lies in in: the folders in it are the class folders" in again


@pytest.mark.parametrize(("command", "suffix"), [("meshes", "xyz"), ("scenes", "txt"), ("videos", "avi")])
def test_a_fault_in_an_archive_is_named_by_the_archive(command, suffix, tmp_path, capsys):
    """Not by the temporary folder, which is gone by then."""
    content = {"meshes": CLOUD, "scenes": text(np.full((9, 7), 0.5))}.get(command)
    for i in range(2):
        for name in ("ball", "box"):
            path = tmp_path / f"in/{name}/{i}.{suffix}"
            if content is None:
                encode(path, pictures(3))
            else:
                put(tmp_path / "in", f"{name}/{i}.{suffix}".encode(), content)
    (tmp_path / f"in/box/1.{suffix}").write_text("broken")
    packed = Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "in"))
    try:
        _, said = run(command, packed, tmp_path / "a.h5", capsys)
    except scene_schema.SchemaError as error:
        said = str(error)
    assert f"{packed}: box/1.{suffix}" in said
    assert "/tmp/tmp" not in said.replace(str(tmp_path), "")


class BareName(zipfile.ZipInfo):
    """A member whose name is bytes without the mark of UTF-8, as zip on Unix and macOS writes them."""

    def _encodeFilenameFlags(self):
        return os.fsencode(self.filename), self.flag_bits & ~0x800


def test_names_in_a_zip_are_the_bytes_of_the_folder_that_it_was_made_of(tmp_path, capsys):
    for name in ("tür/1.xyz", "tür/été.xyz", "box/1.xyz"):
        put(tmp_path / "in", name.encode(), CLOUD)
    put(tmp_path / "in", b"box/caf\xe9.xyz", CLOUD)
    expected, _ = run("meshes", tmp_path / "in", tmp_path / "a.h5", capsys)
    assert expected.class_names == ["box", "tür"]
    for system in (3, 0):  # Unix; Windows, of which bytes that are not UTF-8 are code page 437
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
            for one in sorted((tmp_path / "in").rglob("*.xyz")):
                info = BareName(str(one.relative_to(tmp_path / "in")))
                info.create_system = system
                file.writestr(info, one.read_bytes())
        found, _ = run("meshes", tmp_path / "in.zip", tmp_path / "b.h5", capsys)
        names = [name.replace(r"\xe9", "Θ") if system == 0 else name for name in expected.name]
        assert (found.class_names, found.name) == (expected.class_names, names)


def test_a_source_whose_name_is_markup_or_no_text(tmp_path, capsys):
    for name in (b"my [red] shapes", b"caf\xe9"):
        put(tmp_path, name + b"/ball/1.xyz", CLOUD)
        put(tmp_path, name + b"/box/1.xyz", CLOUD)
        folder = tmp_path / os.fsdecode(name)
        found, _ = run("meshes", folder, tmp_path / "a.h5", capsys)
        assert found.class_names == ["ball", "box"]
        packed = shutil.make_archive(str(tmp_path / "a"), "zip", folder)
        os.rename(packed, folder.with_suffix(".zip"))
        run("meshes", folder.with_suffix(".zip"), tmp_path / "a.h5", capsys)
    assert (
        "--source 'my [red] shapes'"
        in run("meshes", tmp_path / "my [red] shapes", tmp_path / "a.h5", capsys)[0].rebuild
    )


@pytest.mark.parametrize("command", ["meshes", "scenes", "s3dis"])
def test_only_a_data_set_is_replaced(command, tmp_path, capsys):
    """Not the source, nor somebody's notes, nor a folder; an empty file and an earlier data set are."""
    names = {"meshes": ["ball/1.xyz", "box/1.xyz"], "scenes": ["a/1.txt", "b/1.txt"]}
    content = {"meshes": CLOUD, "scenes": SCENE, "s3dis": ROWS}[command]
    for name in names.get(command, ["Area_1/a/Annotations/chair_1.txt"]):
        put(tmp_path / "in", name.encode(), content)
    packed = shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in")
    (tmp_path / "notes.h5").write_text("mine")
    for out, found in (
        (packed, "is no data set"),
        (tmp_path / "notes.h5", "is no data set"),
        (tmp_path / "in", "is a folder"),
    ):
        before = Path(out).read_bytes() if os.path.isfile(out) else None
        with pytest.raises(scene_schema.SchemaError, match=found):
            run(command, Path(packed), Path(out), capsys)
        assert before is None or Path(out).read_bytes() == before
    (tmp_path / "a.h5").touch()
    for _ in range(2):
        run(command, Path(packed), tmp_path / "a.h5", capsys)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "in", "in.zip", "notes.h5"]
