"""What the columns of a table are, for shapes and scenes alike: found, asked for, or said by the user."""

import numpy as np
import pytest

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout, parse_layout
from dropfold.data_scripts.readers.scene_file import read_scene, write_scene
from dropfold.data_scripts.readers.shapes import read_points
from dropfold.data_scripts.work import notes as notes_module
from dropfold.data_scripts.work.errors import ShapeError
from tests.data_scripts.readers.tables import POINTS, both, cloud, write


@pytest.mark.parametrize("suffix", [".txt", ".pts", ".npy"])
@pytest.mark.parametrize(
    "what",
    [
        "i",
        "label",
        "n",
        "c",
        "ic",
        "negative c",
        "16 c",
        "c label",
        "n label",
        "16 c label",
        "cn",
        "nc",
        "float c label",
    ],
)
def test_what_columns_without_names_are(what, suffix, tmp_path):
    points, normals, colour, intensity, label = cloud()
    parts = {"i": intensity, "c": colour, "n": normals, "label": label, "negative": intensity - 900.0}
    parts |= {"16": intensity * 200, "float": colour / 255}
    columns = {
        "ic": ("i", "c"), "cn": ("c", "n"), "nc": ("n", "c"), "float c label": ("float", "label"),
    }.get(what, what.split())  # fmt: skip
    table = np.column_stack([points, *(parts[name] for name in columns)])
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, table)
    else:
        np.savetxt(path, table, "%.9f")
    notes = []
    if suffix == ".pts" and what in ("c label", "float c label", "label"):
        return  # where four columns and seven have an intensity
    if suffix != ".pts" and what == "ic":
        return  # where the intensity may be at either end, see below
    found, found_normals = both(path, notes=notes)
    assert len(notes) == 1
    assert f"{table.shape[1]} columns without names, read as x y z" in notes[0]
    coloured = "c" in what.replace("label", "") or "float" in what
    np.testing.assert_array_equal(found.colour, colour if coloured else None)
    np.testing.assert_array_equal(found.label, label if "label" in what else None)
    if "n" in columns:
        np.testing.assert_allclose(found_normals, normals, atol=1e-6)
    else:
        assert found_normals is None


@pytest.mark.parametrize("what", ["i c", "c i", "c 16", "float i", "n i", "label c"])
def test_seven_columns_that_may_be_one_thing_or_another_are_asked_for(what, tmp_path):
    """Of a scene; a shape has its points in the first three. With their names all are read."""
    points, normals, colour, intensity, label = cloud()
    parts = {"i": intensity, "c": colour, "n": normals, "label": label, "16": intensity * 200}
    parts["float"] = colour / 255
    table = np.column_stack([points, *(parts[name] for name in what.split())])
    path = tmp_path / "a.txt"
    np.savetxt(path, table, "%.9f")
    with pytest.raises(ShapeError, match=r"7 columns, and what they are is not known; name them, --columns"):
        read_scene(path)
    notes = []
    np.testing.assert_allclose(
        read_points(path, 1, whole=True, layout=AS_FOUND, notes=notes)[0], points, atol=1e-6
    )
    assert "read as x y z" in notes[0]
    words = {"c": "r g b", "float": "r g b", "n": "nx ny nz", "16": "i"}
    named = parse_layout(" ".join(["x y z", *(words.get(name, name) for name in what.split())]))
    found = read_scene(path, named)
    np.testing.assert_array_equal(found.colour, None if what == "n i" else colour)
    np.testing.assert_array_equal(found.label, label if "label" in what else None)


@pytest.mark.parametrize("columns", [5, 8, 10])
def test_columns_that_are_not_known_are_asked_for(columns, tmp_path):
    """Of a scene; a shape has its points in the first three, and this is said."""
    table = np.random.default_rng(0).uniform(-9, 9, (50, columns))
    np.savetxt(tmp_path / "a.txt", table)
    np.save(tmp_path / "a.npy", table)
    for name in "a.txt", "a.npy":
        with pytest.raises(
            ShapeError, match=rf"{columns} columns, and what they are is not known; name them, --columns"
        ):
            read_scene(tmp_path / name)
        notes = []
        points, normals = read_points(tmp_path / name, 1, whole=True, notes=notes)
        np.testing.assert_array_equal(points, table[:, :3])
        assert normals is None
        assert f"{columns} columns without names" in notes[0]


def test_empty_columns_and_parts_of_a_colour(tmp_path):
    found, _ = both(write(tmp_path / "a.csv", "1.5;2;3;;\n4;5;6.25;;\n"))
    assert (found.points.tolist(), found.label) == (POINTS, None)
    notes = []
    found, _ = both(write(tmp_path / "a.csv", "x,y,z,red,green\n1.5,2,3,4,5\n4,5,6.25,7,8\n"), notes=notes)
    assert found.colour is None
    assert notes == [f"{tmp_path / 'a.csv'}: red, green without the other colours are not read"]


def test_labels_beside_settle_what_columns_are(tmp_path):
    points, _, colour, intensity, label = cloud()
    np.savetxt(tmp_path / "a.labels", label, "%d")
    for part, expected in ((intensity % 5, None), (np.column_stack([intensity, colour]), colour)):
        np.savetxt(tmp_path / "a.txt", np.column_stack([points, part]), "%.9g")
        found = read_scene(tmp_path / "a.txt", notes=[])
        np.testing.assert_array_equal(found.label, label)
        np.testing.assert_array_equal(found.colour, expected)
    # named labels that agree are the same; others contradict
    for suffix in ".ply", ".npy", ".las", ".csv":
        (tmp_path / "a.labels").unlink()
        write_scene(tmp_path / f"a{suffix}", points, None, label)
        np.savetxt(tmp_path / "a.labels", label, "%d")
        np.testing.assert_array_equal(read_scene(tmp_path / f"a{suffix}").label, label)
        np.savetxt(tmp_path / "a.labels", (label + (np.arange(200) == 7)) % 13, "%d")
        with pytest.raises(
            ShapeError,
            match=rf"a\{suffix} has labels .*a\.labels beside it contradicts: point 7 is {label[7]}",
        ):
            read_scene(tmp_path / f"a{suffix}")


# --- what the user says --------------------------------------------------------------------------------------------


def test_columns_are_what_the_user_says(tmp_path):
    points, normals, colour, intensity, label = cloud()
    table = np.column_stack([label, intensity, points[:, ::-1], colour, normals])
    np.save(tmp_path / "a.npy", table)
    np.savetxt(tmp_path / "a.txt", table, header="what ever it is", comments="")
    np.savetxt(tmp_path / "b.txt", table, header="x y z a b c d e f g h", comments="")
    np.save(tmp_path / "b.npy", table.T)
    layout = parse_layout("label,i z y x  R g B nx ny nz")
    assert parse_layout("label - z y x red green blue skip skip skip").columns.count("-") == 4
    for name in "a.npy", "a.txt", "b.txt", "b.npy":
        notes = []
        found, found_normals = both(tmp_path / name, layout, notes)
        np.testing.assert_array_equal(found.points, points)
        np.testing.assert_array_equal(found.colour, colour)
        np.testing.assert_array_equal(found.label, label)
        np.testing.assert_allclose(found_normals, normals, rtol=1e-6)
        assert len(notes) == (name == "b.npy")
    with pytest.raises(ShapeError, match="11 columns, and --columns names 3"):
        read_scene(tmp_path / "a.npy", parse_layout("x y z"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("x y", "lacks z; x y z come together"),
        ("x y z r g", "lacks b; r g b come together"),
        ("x y z nx", "lacks ny"),
        ("x y z x", "names 'x' twice"),
        ("x y z label class", "names two labels"),
        ("x y z foo", "holds 'foo'; expected x y z, r g b"),
        ("", "names no columns"),
    ],
)
def test_columns_without_sense_are_refused(columns, message):
    with pytest.raises(ValueError, match=rf"--columns '{columns}' {message}"):
        parse_layout(columns)


@pytest.mark.parametrize(
    "word",
    ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "nan(ind)", "-1.#IND", "1.#QNAN", "NA", "null", ""],
)
def test_points_that_are_not_finite_are_named_and_left_out_on_request(word, tmp_path):
    path = write(tmp_path / "a.csv", f"x,y,z,label\n1.5,2,3,1\n7,{word},7,2\n{word},8,8,3\n4,5,6.25,4\n")
    for read in read_scene, lambda path: read_points(path, 1):
        with pytest.raises(
            ShapeError, match=r"point 1 has coordinates.* not finite, the first of 2 such; --drop-nan"
        ):
            read(path)
    notes = []
    found, _ = both(path, Layout(drop_nan=True), notes)
    assert (found.points.tolist(), found.label.tolist()) == (POINTS, [1, 4])
    assert notes == [f"{path}: 2 of 4 points are left out, for they are not finite"]
    write(path, "x,y,z,label\n1,2,3,nan\n1,2,3,0.5")
    with pytest.raises(ShapeError, match="point 0 has a label that is not finite"):
        read_scene(path)
    with pytest.raises(ShapeError, match=r"the label of point 0 is 0\.5"):
        read_scene(path, Layout(drop_nan=True))
    write(path, "x,y,z\nnan,2,3")
    with pytest.raises(ShapeError, match="no points whose numbers are finite"):
        read_scene(path, Layout(drop_nan=True))


def test_what_is_guessed_of_a_file_is_printed_once_where_nobody_collects_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(notes_module, "_said", set())
    for name in "a.txt", "b.txt":
        read_scene(
            write(tmp_path / name, "1 2 3 4 5 6 77\n1 2 3 4 5 6 78\n1 2 3 4 5 6.5 79"),
            parse_layout("x y z i - - label"),
        )
        for _ in range(2):
            read_scene(write(tmp_path / name, "1 2 3 7.125\n1 2 3 -3\n"))
    said = caplog.text
    assert said.count("note: ") == 2
    for name in "a.txt", "b.txt":
        assert said.count(f"{tmp_path / name}: 4 columns without names, read as x y z intensity") == 1
