"""UCF11, YouTube Celebrities, Hollywood2 and HMDB51 in small, in exactly the distributed layouts and archives."""

import shutil
import struct
import tarfile
import zlib

import pytest

from dropfold.data_scripts.schemas import video_schema
from dropfold.data_scripts.videos import hmdb51, hollywood2, ucf11, youtube_celebrities
from dropfold.data_scripts.work import archive
from dropfold.data_scripts.work.errors import ArchiveError, SchemaError
from tests.data_scripts.conftest import encode, pictures

pytest.importorskip("av")
WISH = {"size": "32x24", "frames": 2, "workers": 2}
needs_unrar = pytest.mark.skipif(
    not (shutil.which("bsdtar") or shutil.which("unrar")), reason="no program that unpacks rar archives"
)


def rar(path, members):
    """A rar archive (version 4) of uncompressed members, by the published layout of its headers."""

    def block(kind, flags, body, extra=b""):
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + extra

    content = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, data in members.items():
        sizes = struct.pack("<IIBIIBB", len(data), len(data), 3, zlib.crc32(data), 0x5A5A5A5A, 20, 0x30)
        body = sizes + struct.pack("<HI", len(name.encode()), 0o100644) + name.encode()
        content += block(0x74, 0x8000, body, data)
    path.write_bytes(content + block(0x7B, 0x4000, b""))
    return path


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def ucf(tmp_path):
    root = tmp_path / "UCF11_updated_mpg"
    for name in ("basketball", "walking"):
        for recording in range(1, 4):
            for clip in range(1, 3):
                path = root / name / f"v_{name}_{recording:02d}" / f"v_{name}_{recording:02d}_{clip:02d}.mpg"
                encode(path, pictures(6, seed=recording), "mpeg2video")
        (root / name / "Annotation").mkdir()
        (root / name / "Annotation/v_01_01.xgtf").write_text("<viper/>")
    return root


def test_ucf11(ucf, tmp_path):
    found, faults = ucf11.convert(ucf11.Options(source=ucf, out=tmp_path / "a.h5", **WISH))
    assert faults == [
        f"no readable video is of class {c}" for c in ucf11.CLASSES if c not in ("basketball", "walking")
    ]
    assert found.class_names == ["basketball", "walking"]
    assert len(found.name) == 12
    assert set(found.group) == {f"{c}/v_{c}_{i:02d}" for c in found.class_names for i in (1, 2, 3)}
    assert [len(found.of(split)) for split in range(3)] == [4, 4, 4]
    assert video_schema.read(tmp_path / "a.h5").name == found.name
    with pytest.raises(SchemaError, match="is it UCF11"):
        ucf11.list_clips(tmp_path / "UCF11_updated_mpg/walking/Annotation")


@needs_unrar
def test_ucf11_as_a_rar(ucf, tmp_path):
    source = rar(
        tmp_path / "UCF11_updated_mpg.rar", {f"{ucf.name}/{name}": data for name, data in tree(ucf).items()}
    )
    folder, _ = ucf11.convert(ucf11.Options(source=ucf, out=tmp_path / "a.h5", **WISH))
    packed, _ = ucf11.convert(ucf11.Options(source=source, out=tmp_path / "b.h5", **WISH))
    assert packed.name == folder.name
    assert (packed.frames == folder.frames).all()


def test_youtube_celebrities(tmp_path):
    names = [f"{i:04d}_{v:02d}_{c:03d}_{p}.avi" for i, (p, v, c) in enumerate(
        (p, v, c) for p in ("al_gore", "jet_li") for v in (1, 2, 3) for c in (1, 2)
    )]  # fmt: skip
    for name in names:
        encode(tmp_path / "ytcelebrity" / name, pictures(5, seed=int(name[:4])))
    shutil.copy(tmp_path / "ytcelebrity" / names[0], tmp_path / "ytcelebrity/other.avi")
    with tarfile.open(tmp_path / "ytcelebrity.tar", "w") as tar:
        tar.add(tmp_path / "ytcelebrity", "ytcelebrity")
    given = youtube_celebrities.Options(source=tmp_path / "ytcelebrity.tar", out=tmp_path / "a.h5", **WISH)
    found, faults = youtube_celebrities.convert(given)
    assert faults == ["other.avi is not named NUMBER_VIDEO_CLIP_NAME"]
    assert found.class_names == ["al_gore", "jet_li"]
    assert found.name == names
    assert found.group[:3] == ["al_gore, video 01", "al_gore, video 01", "al_gore, video 02"]
    assert [len(found.of(split)) for split in range(3)] == [4, 4, 4]


@pytest.fixture
def hollywood(tmp_path):
    root = tmp_path / "Hollywood2"
    (root / "ClipSets").mkdir(parents=True)
    shown = {
        "train": [{"Kiss"}, {"HugPerson", "Kiss"}, {"Run"}, {"SitUp"}, {"Eat"}, set()],
        "test": [{"Run", "Eat"}, {"Kiss"}],
    }
    for word, clips in shown.items():
        for action in hollywood2.ACTIONS:
            lines = [f"actionclip{word}{i:05d}  {1 if action in s else -1}" for i, s in enumerate(clips, 1)]
            (root / "ClipSets" / f"{action}_{word}.txt").write_text("\n".join(lines) + "\n")
        for i in range(1, len(clips) + 1):
            encode(root / "AVIClips" / f"actionclip{word}{i:05d}.avi", pictures(5, seed=i))
    return root


def test_hollywood2(hollywood, tmp_path):
    (hollywood / "AVIClips/actioncliptrain00004.avi").unlink()
    given = hollywood2.Options(source=tmp_path, out=tmp_path / "a.h5", **WISH)
    found, faults = hollywood2.convert(given)
    assert faults[0] == "actioncliptrain00006 shows none of the actions"
    assert "actioncliptrain00004.avi is not there" in faults[1]
    assert found.class_names == ["Eat", "HugPerson", "Kiss", "Run"]
    shown = {
        name: [found.class_names[c] for c in row.nonzero()[0]] for name, row in zip(found.name, found.labels)
    }
    assert shown["actioncliptrain00002"] == ["HugPerson", "Kiss"]
    assert shown["actioncliptest00001"] == ["Eat", "Run"]
    assert {found.name[i] for i in found.of(2)} == {"actioncliptest00001", "actioncliptest00002"}
    assert hollywood2.Options(source=tmp_path).size == "234x100"
    assert (video_schema.read(tmp_path / "a.h5").labels == found.labels).all()


def test_broken_lists_of_hollywood2_are_named(hollywood, tmp_path):
    (hollywood / "ClipSets/Kiss_train.txt").write_text("actioncliptrain00001 yes\n")
    with pytest.raises(SchemaError, match=r"Kiss_train.txt, line 1: .* expected a clip and 1 or -1"):
        hollywood2.list_clips(tmp_path)
    (hollywood / "ClipSets/Kiss_train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SchemaError, match=r"Kiss_train.txt, line 1: .* expected a clip"):
        hollywood2.list_clips(tmp_path)
    (hollywood / "ClipSets/Kiss_train.txt").unlink()
    with pytest.raises(SchemaError, match=r"Kiss_train\.txt is not there"):
        hollywood2.list_clips(tmp_path)
    with pytest.raises(SchemaError, match="no folder ClipSets"):
        hollywood2.list_clips(hollywood / "AVIClips")


@pytest.fixture
def hmdb(tmp_path):
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    for name in ("brush_hair", "wave"):
        lines = []
        for source in range(4):
            for clip in range(2):
                file = f"Film{source}_{name}_u_nm_np1_ba_goo_{clip}.avi"
                encode(tmp_path / "org" / name / file, pictures(5, seed=source))
                lines.append(f"{file} {0 if (source, clip) == (3, 1) else 2 if source == 3 else 1} ")
        (lists / f"{name}_test_split1.txt").write_text("\n".join([*lines, f"Gone_{name}_x_0.avi 2"]) + "\n")
        (lists / f"{name}_test_split2.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "org", lists


def check_hmdb(found, faults):
    assert faults == [
        f"{c}/Gone_{c}_x_0.avi is named by the split and not there" for c in ("brush_hair", "wave")
    ]
    assert len(found.name) == 14
    assert found.group[:3] == ["Film0", "Film0", "Film1"]
    for i in range(14):
        assert (found.split[i] == 2) == (found.group[i] == "Film3")
    assert set(found.split) == {0, 1, 2}
    for fold in (found.group_fold, found.split):
        assert len({(g, f) for g, f in zip(found.group, fold)}) == 4


def test_hmdb51(hmdb, tmp_path):
    org, lists = hmdb
    check_hmdb(*hmdb51.convert(hmdb51.Options(source=org, splits=lists, out=tmp_path / "a.h5", **WISH)))
    every, faults = hmdb51.convert(hmdb51.Options(source=org, splits=None, out=tmp_path / "b.h5", **WISH))
    assert (len(every.name), faults) == (16, [])
    with pytest.raises(SchemaError, match="test_split3"):
        hmdb51.convert(hmdb51.Options(source=org, splits=lists, split=3, out=tmp_path / "c.h5", **WISH))
    (lists / "wave_test_split1.txt").write_text("one_wave_0.avi train\n")
    with pytest.raises(SchemaError, match=r"line 1: .* expected a file name and 0, 1 or 2"):
        hmdb51.read_split(lists, 1)


def test_an_unpacked_hmdb51_needs_no_archive_that_lies_beside(hmdb, tmp_path):
    org, lists = hmdb
    (org / "wave.rar").write_bytes(b"Rar! not opened")
    check_hmdb(*hmdb51.convert(hmdb51.Options(source=org, splits=lists, out=tmp_path / "a.h5", **WISH)))


@needs_unrar
def test_hmdb51_as_rars_in_a_rar(hmdb, tmp_path):
    org, lists = hmdb
    inner = {}
    for folder in sorted(org.iterdir()):
        made = rar(
            tmp_path / "inner.rar", {f"{folder.name}/{name}": data for name, data in tree(folder).items()}
        )
        inner[f"{folder.name}.rar"] = made.read_bytes()
    source = rar(tmp_path / "hmdb51_org.rar", inner)
    splits = rar(
        tmp_path / "test_train_splits.rar", {f"{lists.name}/{n}": data for n, data in tree(lists).items()}
    )
    check_hmdb(*hmdb51.convert(hmdb51.Options(source=source, splits=splits, out=tmp_path / "a.h5", **WISH)))


# --- rar archives ------------------------------------------------------------------------------------------------


@needs_unrar
def test_rars_are_unpacked_without_trust(tmp_path):
    archive.extract(rar(tmp_path / "a.rar", {"in/a.txt": b"hello", "b.txt": b""}), tmp_path / "a")
    assert tree(tmp_path / "a") == {"b.txt": b"", "in/a.txt": b"hello"}
    for name in ("../evil.txt", "/evil.txt", "a/../../evil.txt"):
        with pytest.raises(ArchiveError, match="outside its folder"):
            archive.extract(rar(tmp_path / "b.rar", {"fine.txt": b"x", name: b"x"}), tmp_path / "b")
        assert not (tmp_path / "b").exists()
    broken = rar(tmp_path / "c.rar", {"a.txt": b"x" * 1000})
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(ArchiveError, match=r"c\.rar is broken or locked"):
        archive.extract(broken, tmp_path / "c")


def test_without_a_program_a_rar_says_which(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArchiveError, match=r"needs the program bsdtar \(package libarchive-tools\) or unrar"):
        archive.extract(rar(tmp_path / "a.rar", {"a.txt": b"x"}), tmp_path / "a")
