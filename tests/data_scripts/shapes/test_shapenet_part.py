"""ShapeNetPart in small, in exactly both distributed layouts, with real shapes in them: whole, archived, broken, stopped."""

import json
import re
import zipfile

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.schemas import part_schema
from dropfold.data_scripts.schemas.centre import normalised
from dropfold.data_scripts.schemas.part_schema import TEST, TRAIN, VALIDATION, SchemaError
from dropfold.data_scripts.shapes import shapenet_part
from dropfold.data_scripts.shapes.shapenet_part import FIRST, convert
from dropfold.data_scripts.work.errors import ArchiveError

SYNSETS = {name: f"{2691156 + 1000 * c:08d}" for c, name in enumerate(FIRST)}
LAST = dict(zip(FIRST, [*list(FIRST.values())[1:], 50]))


def table(name, seed, m):
    random = np.random.default_rng(seed)
    part = random.integers(FIRST[name], LAST[name], m)
    return np.column_stack([random.uniform(-0.3, 0.5, (m, 6)).round(5), part])


@pytest.fixture
def texts(tmp_path):
    """Three shapes of each category, one a split, of 20 to 67 points."""
    root = tmp_path / "up/shapenetcore_partanno_segmentation_benchmark_v0_normal"
    listed = {word: [] for word in ("train", "val", "test")}
    for c, (name, synset) in enumerate(SYNSETS.items()):
        (root / synset).mkdir(parents=True)
        for s, word in enumerate(listed):
            rows = table(name, 3 * c + s, 20 + 3 * c + s)
            lines = [" ".join(f"{v:.6f}" for v in row) for row in rows]
            (root / synset / f"{word}{c:02d}.txt").write_text("\n".join(lines) + "\n")
            listed[word].insert(0, f"shape_data/{synset}/{word}{c:02d}")
    (root / "synsetoffset2category.txt").write_text(
        "".join(f"{name}\t{synset}\n" for name, synset in SYNSETS.items())
    )
    (root / "train_test_split").mkdir()
    for word, entries in listed.items():
        (root / f"train_test_split/shuffled_{word}_file_list.json").write_text(json.dumps(entries))
    return root


def test_texts_are_read(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(shapenet_part, "TOGETHER", 5)
    parts, notes = convert(texts.parent, "normal", tmp_path / "a.h5")
    found = part_schema.read(tmp_path / "a.h5")
    assert not notes
    assert [len(found.of(split)) for split in range(3)] == [16, 16, 16]
    assert (found.class_names, len(found.part_names)) == (list(FIRST), 50)
    assert found.part_names[12:17] == ["Chair/0", "Chair/1", "Chair/2", "Chair/3", "Earphone/0"]
    assert np.bincount(found.part_category).tolist() == [4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3]
    for c, name in enumerate(FIRST):
        for s, word in enumerate(("train", "val", "test")):
            i = found.name.index(f"{name}/{word}{c:02d}")
            expected = table(name, 3 * c + s, 20 + 3 * c + s)
            assert (found.category[i], found.split[i]) == (c, (TRAIN, VALIDATION, TEST)[s])
            np.testing.assert_array_equal(found.points[found.rows(i)], normalised(expected[:, :3]))
            np.testing.assert_array_equal(found.normals[found.rows(i)], expected[:, 3:6].astype(np.float32))
            np.testing.assert_array_equal(found.part[found.rows(i)], expected[:, 6])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.h5", "up"]
    assert len(parts) == 48


def test_an_archive_of_texts_gives_the_same(texts, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one in sorted(texts.rglob("*")):
            file.write(one, f"{texts.name}/{one.relative_to(texts)}")
    convert(path, "normal", tmp_path / "a.h5")
    convert(texts, "normal", tmp_path / "b.h5")
    assert part_schema.read(tmp_path / "a.h5").checksum == part_schema.read(tmp_path / "b.h5").checksum
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("/etc/passwd", "no")
    with pytest.raises(ArchiveError, match=r"a\.zip holds '/etc/passwd'"):
        convert(path, "normal", tmp_path / "c.h5")


def first(root, word="train", c=0):
    return root / SYNSETS[list(FIRST)[c]] / f"{word}{c:02d}.txt"


def lists(word="train"):
    return f"train_test_split/shuffled_{word}_file_list.json"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda r: first(r).write_text("1 2 3 0 0 1 0\n1 2 3 0 0 1"),
            r"train00\.txt, line 2: '1 2 3 0 0 1' is not `x y z nx",
        ),
        (lambda r: first(r).write_text(""), r"train00\.txt holds no points"),
        (
            lambda r: first(r).write_text("1 2 3 0 0 1 0\n1 2 3 0 0 1 4"),
            r"point 2: part 4, expected 0 .. 3 of Airplane",
        ),
        (lambda r: first(r).write_text("1 2 3 0 0 1 0.5"), r"point 1: part 0.5, expected 0 .. 3 of Airplane"),
        (
            lambda r: first(r).unlink(),
            r"train00\.txt, listed in .*shuffled_train_file_list\.json, is not there",
        ),
        (lambda r: (r / lists()).unlink(), r"shuffled_train_file_list\.json is not there"),
        (lambda r: (r / lists()).write_text("["), r"shuffled_train_file_list\.json is not JSON"),
        (lambda r: (r / lists()).write_text("{}"), "is a dict, expected a list"),
        (
            lambda r: (r / lists()).write_text('["shape_data/1/a"]'),
            "'shape_data/1/a' is not shape_data/SYNSET/TOKEN",
        ),
        (
            lambda r: (r / lists()).write_text((r / lists("val")).read_text()),
            r"val_file.*'shape_data/.*' is listed twice",
        ),
        (
            lambda r: (r / "synsetoffset2category.txt").unlink(),
            r"holds no synsetoffset2category\.txt.*See --form",
        ),
        (
            lambda r: (r / "synsetoffset2category.txt").write_text("Boat 1\n"),
            "line 1: 'Boat 1' is not CATEGORY SYNSET",
        ),
        (lambda r: (r / "synsetoffset2category.txt").write_text("Bag 1\n"), "has no Airplane, Cap"),
    ],
)
def test_a_fault_of_the_texts_is_named(act, message, texts, tmp_path):
    act(texts)
    with pytest.raises(SchemaError, match=message):
        convert(texts, "normal", tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_a_shape_in_no_list_is_noted(texts, tmp_path):
    (texts / lists("val")).write_text("[]")
    _, notes = convert(texts, "normal", tmp_path / "a.h5")
    assert notes[0].startswith("16 files were not read, in no list of a split: ")
    assert notes[1] == "52 files in all: 32 read, 4 beside them (3 .json, 1 .txt), 16 not read"


def test_a_stopped_conversion_goes_on(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(shapenet_part, "TOGETHER", 8)
    seen = []

    def read_shapes(source, files, *rest, read=shapenet_part.read_shapes):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(files[0].name)
        return read(source, files, *rest)

    monkeypatch.setattr(shapenet_part, "read_shapes", read_shapes)
    with pytest.raises(KeyboardInterrupt):
        convert(texts, "normal", tmp_path / "a.h5", workers=1)
    assert not (tmp_path / "a.h5").exists()
    before, seen[:] = set(seen), ["", "", ""]  # no more interruptions
    convert(texts, "normal", tmp_path / "a.h5")
    assert len(seen[3:]) == 4
    assert not before & set(seen[3:])
    assert len(part_schema.read(tmp_path / "a.h5")) == 48


# --- the HDF5 form -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """ply_data_train0, train1, val0, test0 with four shapes each."""
    root = tmp_path / "up/hdf5_data"
    root.mkdir(parents=True)
    for seed, name in enumerate(("train0", "train1", "val0", "test0")):
        with h5py.File(root / f"ply_data_{name}.h5", "w") as file:
            file["data"], file["label"], file["pid"] = shapes(seed)
    return root


def shapes(seed):
    random = np.random.default_rng(seed)
    label = random.integers(0, 16, (4, 1))
    low, high = (np.array(list(of.values()))[label] for of in (FIRST, LAST))
    return (
        random.normal(size=(4, 32, 3)).astype(np.float32),
        label.astype(np.uint8),
        random.integers(low, high, (4, 32), np.uint8),
    )


def test_copies_on_both_sides_of_the_published_split_are_said(files, tmp_path, caplog):
    with h5py.File(files / "ply_data_val0.h5") as known, h5py.File(files / "ply_data_test0.h5", "a") as file:
        file["data"][3] = known["data"][1]
    convert(files.parent, "hdf5", tmp_path / "a.h5")
    assert (
        "1 shape that tests is known from training or validation, which flatters the scores: " in caplog.text
    )
    assert re.search(r"ply_data_test0_0003 -> \w+/ply_data_val0_0001", caplog.text)


@pytest.mark.parametrize("listed", [False, True])
def test_files_are_read_in_order(listed, files, tmp_path):
    if listed:
        (files / "train_hdf5_file_list.txt").write_text("ply_data_train1.h5\nply_data_train0.h5\n")
    convert(files.parent, "hdf5", tmp_path / "a.h5")
    found = part_schema.read(tmp_path / "a.h5")
    assert found.split.tolist() == [TRAIN] * 8 + [VALIDATION] * 4 + [TEST] * 4
    for k, seed in enumerate([1, 0, 2, 3] if listed else range(4)):
        points, label, pid = shapes(seed)
        rows = slice(128 * k, 128 * (k + 1))
        np.testing.assert_array_equal(found.points[rows], points.reshape(-1, 3))
        np.testing.assert_array_equal(found.part[rows], pid.ravel())
        np.testing.assert_array_equal(found.category[4 * k : 4 * k + 4], label.ravel())
    assert found.normals is None
    assert found.name[0] == f"{list(FIRST)[found.category[0]]}/ply_data_train{int(listed)}_0000"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.h5", "up"]


def put(item, value):
    def act(root):
        with h5py.File(root / "ply_data_val0.h5", "r+") as file:
            whole = file[item][()]
            del file[item]
            if value is not None:
                file[item] = value(whole)

    return act


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (put("pid", None), r"val0\.h5 has no dataset 'pid'"),
        (put("pid", lambda w: w[:, 1:]), r"pid is \(4, 31\) and label \(4, 1\), expected \(4, 32\)"),
        (put("pid", lambda w: w + np.uint8(50)), r"val0\.h5, shape 0: its parts are of another category"),
        (put("label", lambda w: w + np.uint8(16)), "label holds .* expected 0 .. 15"),
        (put("data", lambda w: w[..., :2]), r"data is float32 \(4, 32, 2\)"),
        (put("data", lambda w: w * np.float32(np.nan)), "shape 0: its points are not finite"),
        (lambda r: (r / "ply_data_val0.h5").write_bytes(b"cut"), r"val0\.h5 is not a whole HDF5 file"),
        (lambda r: (r / "ply_data_val0.h5").unlink(), r"holds no ply_data_val\*\.h5"),
        (
            lambda r: (r / "val_hdf5_file_list.txt").write_text("ply_data_val7.h5"),
            "val7.h5, named in val_hdf5_file_list",
        ),
        (
            lambda r: (r / "val_hdf5_file_list.txt").write_text("\n"),
            "val_hdf5_file_list.txt names no files",
        ),
        (lambda r: [p.unlink() for p in r.glob("*train*")], r"holds no ply_data_train\*\.h5.*See --form"),
    ],
)
def test_a_fault_of_the_files_is_named(act, message, files, tmp_path):
    act(files)
    with pytest.raises(SchemaError, match=message):
        convert(files, "hdf5", tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
