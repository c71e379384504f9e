"""Data sets from tables: what the user says of their columns, what is guessed, and points that are not finite."""

import numpy as np
import pytest

from dropfold.data_scripts.readers import shapes
from dropfold.data_scripts.readers.scene_file import write_scene
from dropfold.data_scripts.scenes import own_scenes
from dropfold.data_scripts.schemas.scene_schema import SchemaError
from dropfold.data_scripts.shapes import own_meshes


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    points = random.uniform(0, 1, (300, 3)).round(3) * [9, 7, 3]
    return (
        points,
        random.integers(0, 256, (300, 3)),
        random.choice([4, 12], 300),
        random.integers(0, 256, 300),
    )


def test_scenes_by_the_columns_that_the_user_names(table, tmp_path):
    points, colour, label, intensity = table
    rows = np.column_stack([intensity, points, label, colour])
    rows[7, 2] = np.nan
    (tmp_path / "own").mkdir()
    np.savetxt(tmp_path / "own/a.txt", rows)
    write_scene(tmp_path / "own/b.ply", points, colour.astype(np.uint8), label)  # names its own
    options = {"source": tmp_path / "own", "out": tmp_path / "a.h5"}
    with pytest.raises(
        SchemaError, match=r"a\.txt has 8 columns, and what they are is not known; name them, --columns"
    ):
        own_scenes.convert(own_scenes.Options(**options))
    with pytest.raises(SchemaError, match=r"point 7 has coordinates.*--drop-nan"):
        own_scenes.convert(own_scenes.Options(**options, columns="i x y z label r g b"))
    found, notes = own_scenes.convert(
        own_scenes.Options(**options, columns="- x y z label r g b", drop_nan=True)
    )
    kept = np.arange(300) != 7
    for i, chosen in enumerate((kept, slice(None))):
        room = found.room(i)
        np.testing.assert_array_equal(np.array([4, 12])[room.label], label[chosen])
        np.testing.assert_array_equal(room.colour, colour[chosen])
        np.testing.assert_allclose(room.points, points[chosen] - points[chosen].min(0), atol=1e-6)
    assert any("a.txt: 1 of 300 points are left out" in note for note in notes)
    assert found.rebuild.endswith("--columns '- x y z label r g b' --drop-nan")


def test_a_guess_is_among_the_notes(table, tmp_path):
    points, colour, label, _ = table
    (tmp_path / "own").mkdir()
    np.savetxt(tmp_path / "own/a.txt", np.column_stack([points, colour, label]))
    _, notes = own_scenes.convert(own_scenes.Options(source=tmp_path / "own", out=tmp_path / "a.h5"))
    assert any("7 columns without names, read as x y z r g b label" in note for note in notes)
    (tmp_path / "own/b.csv").write_text("x [deg],y [deg],z [deg],label\n11,48,1,2\n12,49,2,2\n")
    with pytest.raises(SchemaError, match=r"b\.csv states its unit as 'degree'; Project them to metres"):
        own_scenes.convert(own_scenes.Options(source=tmp_path / "own", out=tmp_path / "b.h5"))


def test_shapes_by_the_columns_that_the_user_names(table, tmp_path):
    points, _, _, intensity = table
    rows = np.column_stack([intensity, points[:, ::-1]])
    rows[7, 2] = np.nan
    for i in range(3):
        path = tmp_path / f"own/chair/{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, np.roll(rows, i, 0))  # three shapes, no copies
    clouds, notes = own_meshes.convert(
        tmp_path / "own", 299, layout=own_meshes.parse_layout("i z y x", drop_nan=True)
    )
    kept = np.delete(points, 7, axis=0)
    size = np.linalg.norm(kept - kept.mean(0), axis=1).max()
    np.testing.assert_allclose(clouds.points[0], (kept - kept.mean(0)) / size, atol=1e-6)
    assert clouds.rebuild.endswith('--columns "intensity z y x" --drop-nan')
    lost = "1 of 300 points are left out, for they are not finite"
    assert notes[0] == "note: all shapes are of the class chair: training needs two classes or more"
    assert notes[1:] == [f"note: chair/0.txt, chair/1.txt, chair/2.txt: {lost}"]


def test_what_is_lost_of_a_file_is_said_of_each(caplog, tmp_path):
    """The same words of two files are two lines; a file that is read again, as each vote does, is said once."""
    rows = np.random.default_rng(0).normal(size=(50, 3))
    rows[7, 2] = np.nan
    for name in ("a.txt", "b.txt"):
        np.savetxt(tmp_path / name, rows)
        for _ in range(2):
            shapes.read_shape(tmp_path / name, 49, layout=own_meshes.parse_layout(None, drop_nan=True))
    lost = "1 of 50 points are left out, for they are not finite"
    assert [one.getMessage() for one in caplog.records] == [
        f"note: {tmp_path / name}: {lost}" for name in ("a.txt", "b.txt")
    ]


def test_a_scene_without_labels_says_what_its_columns_were_taken_for(table, tmp_path):
    points, colour, _, intensity = table
    (tmp_path / "own").mkdir()
    np.savetxt(tmp_path / "own/a.txt", np.column_stack([points, intensity - 900, colour]))
    with pytest.raises(
        SchemaError, match=r"no labels \(7 columns without names, read as x y z intensity r g b"
    ):
        own_scenes.convert(own_scenes.Options(source=tmp_path / "own", out=tmp_path / "a.h5"))


def test_labels_that_classes_does_not_name_are_told_from_those_it_does():
    job = own_scenes.RoomJob("a.txt", "", 0, lambda advance: {})
    with pytest.raises(SchemaError, match="has labels 5, and --classes names -1, 0; name all"):
        own_scenes.choose_classes([job], [np.array([5])], {-1: "none", 0: "ground"})
