"""One's own scenes in folders: areas, splits, classes, what they lack, interrupted."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.readers.scene_file import write_scene
from dropfold.data_scripts.scenes import own_scenes, s3dis
from dropfold.data_scripts.scenes.own_scenes import GRAY, Options, convert
from dropfold.data_scripts.schemas.scene_schema import TEST, TRAIN, VALIDATION, SchemaError


def scene(seed, m=60, labels=(2, 6)):
    random = np.random.default_rng(seed)
    points = random.uniform(0, 1, (m, 3)) * [9, 7, 3] + [300_000, 4_000_000, 50]
    return points, random.integers(0, 256, (m, 3), dtype=np.uint8), random.choice(labels, m)


def made(source, out, **options):
    return convert(Options(source=source, out=out / "a.h5", **options))


@pytest.fixture
def source(tmp_path):
    """Three areas of two scenes each, of other formats."""
    for i, (area, suffix) in enumerate([("east", ".ply"), ("east", ".npy"), ("north", ".txt"), ("north", ".ply"),
                                        ("west", ".ply"), ("west", ".laz")]):  # fmt: skip
        write_scene(tmp_path / f"own/{area}/scan_{i}{suffix}", *scene(i))
    return tmp_path / "own"


def test_scenes_of_all_formats(source, tmp_path):
    found, notes = made(source, tmp_path)
    assert not notes
    assert found.name[0] == "east/scan_0.ply"
    assert (found.area.tolist(), found.class_names) == ([1, 1, 2, 2, 3, 3], ["2", "6"])
    assert found.split[4:].tolist() == [TEST] * 2
    assert sorted(found.split[:4].tolist()) == [TRAIN] * 3 + [VALIDATION]
    for i in range(6):
        points, colour, label = scene(i)
        room = found.room(i)
        # LAS's 0.1 mm; float64 at 4,000,000 m and float32 below 16 m are finer
        np.testing.assert_allclose(room.points, points - points.min(0), rtol=0, atol=1.1e-4)
        np.testing.assert_array_equal(room.colour, colour)
        np.testing.assert_array_equal(np.array([2, 6])[room.label], label)
    assert found.rebuild == "dropfold data scenes --source own --out FILE"


def test_named_classes_ignored_labels_and_units(tmp_path):
    for i in range(3):
        points, _, label = scene(i, labels=(0, 1, 2, 9))
        write_scene(tmp_path / f"own/{i}.ply", points * 100, None, label)
    found, notes = made(tmp_path / "own", tmp_path, classes=("ground", "car", "tree"), ignore=(9,), unit="cm")
    assert found.class_names == ["ground", "car", "tree"]
    points, _, label = scene(1, labels=(0, 1, 2, 9))
    np.testing.assert_array_equal(found.room(1).label, label[label != 9])
    np.testing.assert_allclose(found.room(1).points, (p := points[label != 9]) - p.min(0), rtol=0, atol=1e-6)
    assert (found.room(1).colour == GRAY).all()
    assert "points left out by --ignore" in notes[0]
    assert "has no colours, now gray" in notes[1]
    assert sorted(found.split.tolist()) == [TRAIN, VALIDATION, TEST]  # of one area alone
    assert found.rebuild.endswith("--classes ground car tree --ignore 9 --unit cm")


def test_what_folders_state(tmp_path):
    for i, name in enumerate(["Area_3/test/a", "train/Area_7/b", "Area_7/train/c"]):
        write_scene(tmp_path / f"own/{name}.las", *scene(i))
    found, _ = made(tmp_path / "own", tmp_path)
    assert dict(zip(found.name, found.area.tolist())) == {
        "Area_3/test/a.las": 3,
        "train/Area_7/b.las": 7,
        "Area_7/train/c.las": 7,
    }
    assert found.split[0] == TEST
    assert sorted(found.split[1:].tolist()) == [TRAIN, VALIDATION]
    assert found.class_names == ["ground", "building"]  # LAS says what its labels mean


def test_rooms_of_the_peers_are_in_their_areas(tmp_path):
    """stanford_indoor3d, what yanx27's collect_indoor3d_data writes: x y z r g b label, all in float64."""
    (tmp_path / "own").mkdir()
    for area, room in ((1, "office_1"), (5, "hallway_2"), (6, "office_1")):
        np.save(tmp_path / f"own/Area_{area}_{room}.npy", np.column_stack(scene(area, labels=range(13))))
    found, _ = made(tmp_path / "own", tmp_path, classes=s3dis.CLASSES)
    assert found.area.tolist() == [1, 5, 6]
    assert (found.split[1], found.class_names) == (TEST, list(s3dis.CLASSES))
    np.testing.assert_array_equal(found.room(1).label, scene(5, labels=range(13))[2])


def test_labels_beside_a_scan(tmp_path):
    """Semantic3D's two files."""
    points, colour, label = scene(0)
    (tmp_path / "own").mkdir()
    rows = np.column_stack([points, np.full(60, -1700), colour])
    np.savetxt(tmp_path / "own/scan.txt", rows, fmt="%.3f %.3f %.3f %d %d %d %d")
    np.savetxt(tmp_path / "own/scan.labels", label, fmt="%d")
    found, notes = made(tmp_path / "own", tmp_path)
    np.testing.assert_array_equal(np.array([2, 6])[found.room(0).label], label)
    np.testing.assert_array_equal(found.room(0).colour, colour)
    assert found.split.tolist() == [TRAIN]
    assert "none is left to test on" in notes[-1]
    np.savetxt(tmp_path / "own/scan.labels", label[1:], fmt="%d")
    with pytest.raises(SchemaError, match=r"scan\.labels has 59 labels, scan\.txt has 60 points"):
        made(tmp_path / "own", tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda p: write_scene(p, *scene(0)[:2], None), {}, r"scan_0\.ply has no labels; name a column"),
        (lambda p: write_scene(p, scene(0)[0] * 1000, *scene(0)[1:]), {}, r"scan_0\.ply spans .* is it mm"),
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), {}, r"scan_0\.ply ends after 59 of 60 points"),
        (lambda p: None, {"ignore": (2, 6)}, "no points but those that --ignore leaves out"),
        (
            lambda p: None,
            {"classes": ("a", "b", "c")},
            r"east/scan_0\.ply has labels 2, 6, and --classes names 0 .. 2",
        ),
        (
            lambda p: write_scene(p, *scene(0)[:2], np.arange(60) * 9),
            {"classes": tuple("abcdefg")},
            "labels 0, 9, 18, ",
        ),
        (
            lambda p: write_scene(p, *scene(0, 300)[:2], np.arange(300)),
            {},
            "300 labels were found, 0 .. 299, 255 is the most",
        ),
        (lambda p: None, {"leave_out": ("east",)}, "--leave-out names 'east', which is not there"),
        (lambda p: None, {"test_area": 4}, "area 4 was asked for"),
    ],
)
def test_a_fault_is_named_and_nothing_is_written(change, options, message, source, tmp_path):
    change(source / "east/scan_0.ply")
    with pytest.raises(SchemaError, match=message):
        made(source, tmp_path, **options)
    assert not (tmp_path / "a.h5").exists()


def test_another_unit_among_the_scenes_is_noted(source, tmp_path):
    for path in source.rglob("scan_*"):
        if path.suffix != ".ply":
            path.unlink()
    write_scene(source / "east/scan_0.ply", scene(0)[0] * 1000, *scene(0)[1:])
    _, notes = made(source, tmp_path, unit="mm")
    assert len(notes) == 2
    assert all("with --unit mm: is it in another unit" in note for note in notes)


def test_a_stopped_conversion_goes_on(source, tmp_path, monkeypatch):
    seen = []

    def read_one(path, *rest, read=own_scenes.read_labelled):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(path)
        return read(path, *rest)

    monkeypatch.setattr(own_scenes, "read_labelled", read_one)
    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path, workers=1)
    assert not (tmp_path / "a.h5").exists()
    first = set(seen)
    seen.clear()
    assert len(made(source, tmp_path, workers=1)[0]) == 6
    assert len(first) == len(seen) == 3
    assert not first & set(seen)


def test_what_has_changed_in_an_archive_is_read_again(source, tmp_path):
    """Of the same size, unpacked at the same moment; and a piece that was cut is made again."""
    whole = (source / "west/scan_4.ply").read_bytes()
    (source / "west/scan_4.ply").write_bytes(whole[:-9])
    archive = shutil.make_archive(str(tmp_path / "own"), "zip", source)
    with pytest.raises(SchemaError, match="1 of 6 rooms cannot be read"):
        made(Path(archive), tmp_path)
    (source / "west/scan_4.ply").write_bytes(whole)
    points, colour, label = scene(0)
    write_scene(source / "east/scan_0.ply", points, colour, 8 - label)
    archive = shutil.make_archive(str(tmp_path / "own"), "zip", source)
    for piece in (tmp_path / "a.h5.part").iterdir():
        piece.write_bytes(piece.read_bytes()[:100])
    found, _ = made(Path(archive), tmp_path)
    np.testing.assert_array_equal(np.array([2, 6])[found.room(0).label], 8 - label)


def test_rooms_on_both_sides_of_a_split_are_said(source, tmp_path):
    shutil.copy(source / "east/scan_0.ply", source / "west/again.ply")
    found, notes = made(source, tmp_path)
    assert len(found.name) == 7
    assert notes == [
        "1 room that tests is known from training, which flatters the scores: west/again.ply -> east/scan_0.ply"
    ]
