"""Tables of points as programs write them: what their columns are, for shapes and scenes alike, and what is asked."""

from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.readers import npy, text_file, text_table
from dropfold.data_scripts.readers.columns import AS_FOUND, Layout, parse_layout
from dropfold.data_scripts.readers.scene_file import read_scene, write_scene
from dropfold.data_scripts.readers.shapes import read_points, read_shape
from dropfold.data_scripts.work import notes as notes_module
from dropfold.data_scripts.work.errors import ShapeError

CASES = Path(__file__).parent / "cases"
POINTS = [[1.5, 2, 3], [4, 5, 6.25]]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def both(path, layout=AS_FOUND, notes=None):
    """The scene of a file, whose points and number are the shape's too."""
    notes = [] if notes is None else notes
    found = read_scene(path, layout, notes)
    points, normals = read_points(path, 1, whole=True, layout=layout, notes=[])
    np.testing.assert_array_equal(points, found.points)
    return found, normals


def columns_of(found):
    """Colour of the first point and all labels, as lists."""
    colour, label = found.colour, found.label
    return None if colour is None else colour[0].tolist(), None if label is None else label.tolist()


# --- the small files that once failed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "points", "colour", "label"),
    [
        ("scan.txt", [[0.1, 0.2, 0.3], [1.1, 0.2, 0.3], [0.1, 1.2, 2.3]], [200, 50, 50], [1, 2, 3]),
        ("decimal_comma.txt", [[2.55, 1.08, 1.62], [0.16, 0.07, 2.07], [3.4, 2.11, 0.98]], None, [1, 1, 2]),
        (
            "cloudcompare_header_and_count.txt",
            [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
            [1, 2, 3],
            [6, 6],
        ),
        ("header.csv", [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], None, None),
        ("bom.xyz", [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], None, None),
        ("count.pts", [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], None, None),
    ],
)
def test_tables_of_other_programs(name, points, colour, label):
    found, _ = both(CASES / name)
    assert found.points.tolist() == points
    assert columns_of(found) == (colour, label)


def test_a_pts_file_with_intensity_and_colour():
    found, _ = both(CASES / "test.pts")
    rows = [line.split() for line in (CASES / "test.pts").read_text().splitlines()[1:]]
    assert found.points.tolist() == [[float(word) for word in row[:3]] for row in rows]
    assert found.colour.tolist() == [[int(word) for word in row[4:]] for row in rows]
    assert found.label is None


def test_a_table_of_names_alone_is_no_colour():
    found, _ = both(CASES / "elm1.txt")
    assert found.points[[1, -1]].tolist() == [[1, 2, 2.1], [6, 2, 25]]
    assert len(found.points) == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transposed_3xN.npy", r"3 rows of 200 numbers: is it transposed.*\[points, 3\]"),
        ("npy_header_token.npy", r"not a whole \.npy file"),
        ("npy_4e9_rows.npy", "ends after 2 of 4000000000 rows"),
    ],
)
def test_broken_arrays_are_named(name, message):
    for read in read_scene, lambda path: read_shape(path, 100):
        with pytest.raises(ShapeError, match=rf"{name} .*{message}|{name} {message}"):
            read(CASES / name)


def test_a_shape_that_collapses_is_refused(tmp_path):
    with pytest.raises(ShapeError, match=r"collapses_to_zero\.txt has an extent of 1e\+308: too large"):
        read_shape(CASES / "collapses_to_zero.txt", 40)
    cloud = np.random.default_rng(0).normal(size=(100, 3))
    far = np.concatenate([cloud, [[1e9, 0, 0]]])
    for bad, message in (
        (cloud * 1e-30, "too small"),
        (cloud * 0 + 7, "extent of 0: too small"),
        (cloud * 1e200, "too large"),
        (cloud + 1e15, "about 1e"),
        (far, "cut off the points that lie far away"),
    ):
        np.save(tmp_path / "a.npy", bad)
        with pytest.raises(ShapeError, match=message):
            read_shape(tmp_path / "a.npy", 40)
    for scale, shift in ((1e-6, 0), (1e6, 0), (0.1, 5e6)):
        np.save(tmp_path / "a.npy", cloud * scale + shift)
        found, _ = read_shape(tmp_path / "a.npy", 100)
        assert np.ptp(found, axis=0).max() > 1


# --- names, counts, separators -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x y z r g b label\n{}",
        '"X";"Y";"Z";"R";"G";"B";"Label"\n{;}',
        "//X,Y,Z,R,G,B,Classification\n{,}",
        "# x y z red green blue scalar_Label\n{}",
        "X\tY\tZ\tRed\tGreen\tBlue\tclass\n{\t}",
        "# made by a program\n//X Y Z R G B Classification\n2\n{}",
        "2\nx y z r g b label\n{}",
        "\ufeffx,y,z,r,g,b,label,\n{,},",
        "x, y, z, r, g, b, label\n{, }",
        "Easting,Northing,Elevation,R,G,B,Label\n{,}",
        "x [m];y [m];z [m];r;g;b;label\n{;}",
        ",x,y,z,r,g,b,label\n0,{,0,}",  # as pandas numbers its rows
        '"x","y","z","r","g","b","label"\n{","}',
        "label r g b height z y x\n{back}",
        "x y z r g b label\r{\r}",  # old Macs
        "x,y,z,r,g,b,label\n,,,,,,\n{,}\n,,,,,,",  # empty rows of a spreadsheet
    ],
)
def test_headers_of_all_forms(text, tmp_path):
    rows = [["1.5", "2", "3", "255", "0", "9", "4"], ["4", "5", "6.25", "1", "2", "3", "5"]]
    form = text[text.index("{") + 1 : text.index("}")]
    before, after = text[: text.index("{")], text[text.index("}") + 1 :]
    if form == "back":
        lines = [" ".join([r[6], r[3], r[4], r[5], "7", r[2], r[1], r[0]]) for r in rows]
    elif form == '","':
        lines = ['"' + '","'.join(row) + '"' for row in rows]
    elif form == ",0,":
        lines = [",".join(rows[0]), "1," + ",".join(rows[1])]
    elif form == "\r":
        lines = [" ".join(rows[0]) + "\r" + " ".join(rows[1])]
    else:
        lines = [(form or " ").join(row) for row in rows]
    end = after if after.startswith(",") else ""
    text = before + (end + "\n").join(lines) + after
    for name in "a.txt", "a.csv", "a.pts", "a.asc", "a.xyz":
        notes = []
        found, _ = both(write(tmp_path / name, text), notes=notes)
        assert found.points.tolist() == POINTS
        assert columns_of(found) == ([255, 0, 9], [4, 5])
        assert not notes


def test_text_of_other_encodings(tmp_path):
    for coding in "utf-16", "utf-32":
        found, _ = both(write(tmp_path / "a.txt", "x y z\n1.5 2 3\n4 5 6.25\n".encode(coding)))
        assert found.points.tolist() == POINTS
    with pytest.raises(ShapeError, match=r"a\.txt is no text, or UTF-16 without its mark"):
        read_scene(write(tmp_path / "a.txt", "1 2 3\n4 5 6\n".encode("utf-16-le")))


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("1,5 2,0 3\n4 5 6,25", POINTS),
        ("1,5;2;3\n4;5;6,25", POINTS),
        ("x;y;z\n1,5;2;3\n4;5;6,25", POINTS),
        ("1,5\t2\t3\n4\t5\t6,25e0", POINTS),
        ("1.5, 2, 3\n4, 5, 6.25", POINTS),
        ("1.5,2,3 \n4,5,6.25", POINTS),
        ("1.5 , 2 , 3\n4 , 5 , 6.25", POINTS),
        ('"1,5";"2";"3"\n"4";"5";"6,25"', POINTS),
    ],
)
def test_decimal_commas_are_read_where_nothing_else_is_meant(text, points, tmp_path):
    notes = []
    found, _ = both(write(tmp_path / "a.csv", text), notes=notes)
    assert found.points.tolist() == points
    assert len(notes) == ("1,5" in text)


@pytest.mark.parametrize(
    "text",
    [
        "0,16,0,07,2,07\n3,40,2,11,0,98",
        "1,234.5 2,345.6 3,456.7",
        "2,55, 1,08, 1,62",
        "1.5,2.5,3.5 255,0,0",
        "1,2,3 4,5,6",
        '"2,55","1,08","1,62"',
        "1,5 2 3\n1,5,2",
    ],
)
def test_commas_of_two_meanings_are_refused(text, tmp_path):
    for read in read_scene, lambda path: read_points(path, 1):
        with pytest.raises(ShapeError, match=r"a\.txt.* (decimal points?)"):
            read(write(tmp_path / "a.txt", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\n1 2 3\n4 5 6\n7 8 9", "announces 2 points and holds 3"),
        ("4\n1 2 3\n4 5 6", r"announces 4 points and holds 2 \(truncated"),
        ("a b c\n1 2 3", "line 1: 'a b c' names no columns x, y and z.*--columns"),
        ("lon,lat,height\n11,48,500", "line 1.*longitude and latitude.*project"),
        ("x y z x\n1 2 3 4", "names the column 'x' twice"),
        ("x[m] y[m] z[ft]\n1 2 3", r"different units \(x\[m\], y\[m\], z\[ft\]\)"),
        ("x y z\nx y z\n1 2 3", "line 2: a second line of names"),
        ("1 2 3\nx y z\n4 5 6", "line 2: 'x y z' is not a row of 3 numbers"),
        ("1 2 abc\n", "line 1: '1 2 abc' is not a row"),
        ("1,2,3\n1,2,\n", "line 2.*not a row of 3"),
        (" ".join(["0.5"] * 300) + "\n", "300 numbers, 256 is the most.*transposed"),
        ("\n".join(f"{i} 2 3 4.5" for i in range(9)), "the first of 4 columns counts the rows.*--columns"),
        ("\n".join([" ".join(["0.5"] * 100)] * 3), "3 rows of 100 numbers: is it transposed"),
    ],
)
def test_broken_tables_are_named(text, message, tmp_path):
    for read in read_scene, lambda path: read_points(path, 1):
        with pytest.raises(ShapeError, match=rf"a\.txt.*{message}"):
            read(write(tmp_path / "a.txt", text))


def test_a_line_without_end_takes_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "LONGEST_LINE", 1000)
    monkeypatch.setattr(text_table, "LONGEST_LINE", 1000)
    monkeypatch.setattr(text_table, "BYTES_PER_PIECE", 100)
    with pytest.raises(ShapeError, match="line 1 is longer than"):
        read_scene(write(tmp_path / "a.txt", "1 " * 100_000))
    with pytest.raises(ShapeError, match=r"line 2: '1 1 1.*\.\.\.' is not a row of 3 numbers"):
        read_scene(write(tmp_path / "a.txt", "1 2 3\n" + "1 " * 100_000))


def test_memory_that_ends_is_a_sentence(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise MemoryError("Unable to allocate 44.7 GiB")

    monkeypatch.setattr(text_file, "_read_rows", fail)
    path = write(tmp_path / "a.txt", "1 2 3")
    for read in read_scene, lambda path: read_points(path, 1):
        with pytest.raises(
            ShapeError, match=r"a\.txt \(5 bytes\) does not fit into memory \(Unable.*44\.7 GiB"
        ):
            read(path)


def test_numbers_are_read_to_the_last_bit(tmp_path):
    random = np.random.default_rng(1)
    table = random.normal(size=(2000, 3)) * 10.0 ** random.integers(-25, 25, (2000, 3))
    np.savetxt(tmp_path / "a.txt", table)  # 19 digits and an exponent
    np.testing.assert_array_equal(read_scene(tmp_path / "a.txt").points, table)
    write(tmp_path / "b.txt", "\n".join(" ".join(map(repr, row)) for row in table.tolist()))
    np.testing.assert_array_equal(read_scene(tmp_path / "b.txt").points, table)


# --- columns without names -----------------------------------------------------------------------------------------


def cloud(n=200, seed=0):
    random = np.random.default_rng(seed)
    points, normals = random.uniform(0, 5, (n, 3)), random.normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colour = random.integers(0, 256, (n, 3))
    return points, normals, colour, random.integers(0, 256, n), random.integers(0, 13, n)


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


# --- arrays --------------------------------------------------------------------------------------------------------


def test_arrays_of_all_types(tmp_path):
    points = np.arange(12).reshape(4, 3)
    path = tmp_path / "a.npy"
    for kind in "i1", "u1", "<i2", ">i4", "u8", "f2", ">f4", "f8":
        for order in "CF":
            np.save(path, np.asarray(points, kind, order=order))
            found, _ = both(path)
            assert found.points.tolist() == points.tolist()
    for bad in (
        points > 3,
        points * 1j,
        points.astype("U3"),
        points.astype("M8[s]"),
        points[None],
        points[0],
        points[:, :2],
        points[:0],
    ):
        np.save(path, bad)
        for read in read_scene, lambda path: read_points(path, 1):
            with pytest.raises(ShapeError, match=r"a\.npy is .*; expected numbers \[points, 3 or more\]"):
                read(path)
    np.save(path, points.astype(object), allow_pickle=True)
    with pytest.raises(ShapeError, match="not a table of numbers: it holds pickled objects"):
        read_points(path, 1)
    np.savez(tmp_path / "a.npz", points)
    (tmp_path / "a.npz").rename(path)
    with pytest.raises(ShapeError, match="archive of arrays"):
        read_scene(path)


def test_records_of_all_forms(tmp_path):
    path = tmp_path / "a.npy"
    table = np.zeros(
        2,
        [
            ("position", "f4", 3),
            ("rgb", "u1", (3,)),
            ("Label", "i4", (1,)),
            ("more", [("a", "f4")]),
            ("matrix", "f4", (2, 2)),
        ],
    )
    table["position"], table["rgb"], table["Label"] = POINTS, [[255, 0, 9], [1, 2, 3]], [[4], [5]]
    np.save(path, table)
    found, _ = both(path)
    assert (found.points.tolist(), columns_of(found)) == (POINTS, ([255, 0, 9], [4, 5]))
    np.save(path, table[:, None])
    with pytest.raises(ShapeError, match=r"records \(2, 1\); expected \[points\]"):
        read_scene(path)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((4 * 10**9, 3), "<f4", "ends after 2 of 4000000000 rows"),
        ((2**62, 2**62), "<f8", "ends after 0 of"),
        ((-1, 3), "<f4", "expected sizes of 0 or more"),
        ((10**9, 3), "|U0", "ends after 0 of 1000000000"),
        ((2, 3), "nonsense", r"not a whole \.npy file"),
    ],
)
def test_a_header_is_held_against_the_size(shape, kind, message, tmp_path):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path = write(tmp_path / "a.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(24))
    with pytest.raises(ShapeError, match=message):
        npy.read_array(path)


def test_a_second_array_is_said(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.save(file, np.array(POINTS))
        np.save(file, np.array(POINTS))
    notes = []
    read_scene(tmp_path / "a.npy", notes=notes)
    assert "bytes after the array are not read" in notes[0]


# --- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".xyz", ".asc", ".csv", ".pts"])
@pytest.mark.parametrize("what", ["points", "colour", "label", "all"])
def test_others_read_what_is_written(suffix, what, tmp_path):
    points, _, colour, _, label = cloud()
    colour, label = (
        colour.astype(np.uint8) if what in ("colour", "all") else None,
        label + 1000 if what in ("label", "all") else None,
    )
    path = tmp_path / f"a{suffix}"
    write_scene(path, points, colour, label)
    lines = path.read_text().splitlines()
    names = ["x", "y", "z", *("rgb" if colour is not None else ""), *(["label"] if label is not None else [])]
    if suffix == ".pts":
        assert lines[0] == "200"
        assert len(lines[1].split()) == (
            3 if colour is None else 6
        )  # as MeshLab, Open3D and CloudCompare know them
        assert (tmp_path / "a.labels").exists() == (label is not None)
    elif suffix == ".csv":
        assert lines[0].split(",") == names
    else:
        assert lines[0] == "//" + " ".join(name.upper() if len(name) == 1 else name for name in names)
    table = np.loadtxt(
        lines,
        delimiter="," if suffix == ".csv" else None,
        comments="//",
        skiprows=int(suffix in (".csv", ".pts")),
    )
    np.testing.assert_allclose(table[:, :3], points, atol=6e-7)
    notes = []
    found, normals = both(path, notes=notes)
    np.testing.assert_array_equal(found.colour, colour)
    np.testing.assert_array_equal(found.label, label)
    assert normals is None
    assert len(notes) == (suffix == ".pts" and colour is not None)


def test_labels_of_others_are_not_replaced(tmp_path):
    points, _, _, _, label = cloud()
    np.savetxt(tmp_path / "scan.labels", label, "%d")
    for suffix in ".pts", ".ply", ".txt":
        with pytest.raises(
            ShapeError, match=r"scan\.labels would be read as the labels of scan\.[a-z]+; write to another"
        ):
            write_scene(tmp_path / f"scan{suffix}", points, None, label)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "scan.labels"), label)
    for labels in label, None:  # the labels of an earlier file would not fit the new one
        write_scene(tmp_path / "a.pts", points, None, labels)
        (tmp_path / "a.labels").unlink(missing_ok=True)
    assert read_scene(tmp_path / "a.pts").label is None
