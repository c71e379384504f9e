"""Tables of points as programs write them in text, for shapes and scenes alike: names, counts, separators, encodings."""

import numpy as np
import pytest

from dropfold.data_scripts.readers import text_file, text_table
from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.shapes import read_points, read_shape
from dropfold.data_scripts.work.errors import ShapeError
from tests.data_scripts.readers.tables import CASES, POINTS, both, columns_of, write

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
