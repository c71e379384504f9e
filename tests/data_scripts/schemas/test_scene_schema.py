"""Scene files: rooms written one by one and read back, every fault a sentence that names the room."""

import pickle

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.schemas import scene_schema
from dropfold.data_scripts.schemas.scene_schema import (
    TEST,
    TRAIN,
    VALIDATION,
    SchemaError,
)

CLASSES = ["floor", "wall", "chair"]
STATED = {"source": "a test", "credits": "none", "rebuild": "dropfold data rooms"}


def room(m, seed=0):
    random = np.random.default_rng(seed)
    return (
        random.uniform(-4, 900_000, (m, 3)),
        random.integers(0, 256, (m, 3), dtype=np.uint8),
        random.integers(0, 3, m, dtype=np.uint8),
    )


def write(path, sizes=(5, 30_000, 40), **extra):
    with scene_schema.writer(path, CLASSES, **STATED) as w:
        for i, m in enumerate(sizes):
            w.add(f"Area_{i + 1}/office_{i}", i + 1, *room(m, i), **extra)
    return path


def test_what_is_written_is_read_shifted_to_its_minimum(tmp_path):
    scenes = scene_schema.read(write(tmp_path / "a.h5"))
    assert (len(scenes), scenes.class_names, scenes.sizes.tolist()) == (3, CLASSES, [5, 30_000, 40])
    assert scenes.name[1] == "Area_2/office_1"
    assert scenes.split.tolist() == [VALIDATION, TRAIN, TEST] or scenes.split.tolist() == [
        TRAIN,
        VALIDATION,
        TEST,
    ]
    scenes = pickle.loads(pickle.dumps(scenes))  # to the processes of a loader
    for i in (2, 1, 0, 1):
        points, colour, label = room(int(scenes.sizes[i]), i)
        found = scenes.room(i)
        assert found.points.dtype == np.float32
        assert found.points.min(0).tolist() == [0, 0, 0]
        # half a unit in the last place of 900,000 m in float32 is 0.03 m
        np.testing.assert_allclose(found.points + scenes.origin[i], points, atol=0.032)
        np.testing.assert_array_equal(found.points, (points - points.min(0)).astype(np.float32))
        np.testing.assert_array_equal(found.colour, colour)
        np.testing.assert_array_equal(found.label, label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, c, l: (p[:0], c[:0], l[:0]), r"room 1 \(b\) has no points"),
        (lambda p, c, l: (p, c[:4], l), r"room 1 \(b\): colour is uint8 \(4, 3\), expected uint8 \(9, 3\)"),
        (lambda p, c, l: (p, c / 255, l), "colour is float64"),
        (lambda p, c, l: (p * [1, np.nan, 1], c, l), r"point 0 is \[.*nan.*finite"),
        (lambda p, c, l: (p, c, l + np.uint8(3)), r"point 0 has label \d, expected 0 .. 2"),
    ],
)
def test_a_bad_room_is_named_and_leaves_nothing_behind(change, message, tmp_path):
    def act():
        with scene_schema.writer(tmp_path / "a.h5", CLASSES, **STATED) as w:
            w.add("a", 1, *room(9))
            w.add("b", 1, *change(*room(9)))

    with pytest.raises(SchemaError, match=message):
        act()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sizes", "message"), [((), "no rooms were given"), ((9, 9), "'Area_1' twice")])
def test_what_only_the_whole_shows_is_refused_at_the_end(sizes, message, tmp_path):
    def act():
        with scene_schema.writer(tmp_path / "a.h5", CLASSES, **STATED) as w:
            for m in sizes:
                w.add("Area_1", 1, *room(m))

    with pytest.raises(SchemaError, match=message):
        act()
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_keeps_the_old_file(tmp_path):
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()

    def act():
        with scene_schema.writer(path, CLASSES, **STATED) as w:
            w.add("a", 1, *room(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        act()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_changed_room_is_named_when_it_is_read(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["label"][7] = (file["label"][7] + 1) % 3
    scenes = scene_schema.read(path)
    scenes.room(0)
    with pytest.raises(SchemaError, match=r"room 1 \(Area_2/office_1\) is not what was written.*rooms"):
        scenes.room(1)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: f["label"].resize(9, 0), r"label is uint8 \(9,\), expected uint8 \(30045,\)"),
        (lambda f: f.__delitem__("colour"), "colour is not there"),
        (lambda f: f.__delitem__("ptr"), "no dataset 'ptr'"),
        (lambda f: f["area"].__setitem__(0, 0), "area is 0, expected 1 or more"),
        (lambda f: f["area"].__setitem__(0, 7), "checksum"),
    ],
)
def test_a_damaged_file_is_refused(act, message, tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        act(file)
    with pytest.raises(SchemaError, match=message):
        scene_schema.read(path)
