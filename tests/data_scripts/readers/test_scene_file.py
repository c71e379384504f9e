"""Single scenes: every format there and back, what columns mean, broken files and units; the fast reader of text."""

import io
import sys

import numpy as np
import pytest

from dropfold.data_scripts.readers import scene_file, text_table
from dropfold.data_scripts.readers.scene_file import read_scene, write_scene
from dropfold.data_scripts.readers.units import in_metres
from dropfold.data_scripts.work.errors import ShapeError


def scene(n=50, seed=0):
    random = np.random.default_rng(seed)
    points = random.uniform(-4, 4, (n, 3)) + np.array([500_000, 5_000_000, 100])
    return points, random.integers(0, 256, (n, 3), dtype=np.uint8), random.integers(0, 13, n)


# --- text --------------------------------------------------------------------------------------------------------


def parsed(text, columns, **options):
    pieces = list(text_table.read_pieces(io.BytesIO(text), columns, **options))
    return np.concatenate([piece.rows for piece in pieces]), [bad for piece in pieces for bad in piece.bad]


def test_numbers_of_fifteen_digits_are_read_to_the_last_bit():
    random = np.random.default_rng(0)
    table = random.uniform(-1e4, 1e4, (3000, 2)).round(9) * 10.0 ** random.integers(-4, 1, (3000, 1))
    text = "\n".join(f"{a:.10f}\t{b:.9f}" for a, b in table.tolist())
    found, bad = parsed(text.encode(), 2)
    assert not bad
    np.testing.assert_array_equal(found, [[float(w) for w in line.split()] for line in text.split("\n")])
    text = "\n".join(f"{a:.17e}, {b:+E}" for a, b in table.tolist())
    found, _ = parsed(text.encode(), 2)
    # a product of two rounded numbers, rounded: within 1.5 units in the last place, 2 ** -52 each
    np.testing.assert_allclose(
        found, [[float(w) for w in line.split(",")] for line in text.split("\n")], rtol=4e-16
    )


@pytest.mark.parametrize(
    "line",
    [
        "1 2",
        "1 2 3 4",
        "1 2 x",
        "1 2 3-",
        "1 2 -",
        "1 . 3",
        "1 2 1e",
        "1 2 nan",
        "1 2 1e999",
        "1 2\x003 4",
        "1 2 \xe9",
    ],
)
def test_a_bad_line_is_known_by_its_number(line):
    text = f"# no row\n1 2 3\r\n\n  4,5;6 \n{line}\n7 8 9".encode()
    found, bad = parsed(text, 3, comments=True)
    np.testing.assert_array_equal(found[[0, 1, 3]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert np.isnan(found[2]).all()
    assert [(b.row, b.line, b.text) for b in bad] == [(2, 5, line.encode())]


def test_pieces_change_nothing(monkeypatch):
    text = b"".join(b"%d %d\n" % (i, i * i) for i in range(300)) + b"oops\n1 2"
    whole = parsed(text, 2)
    for size in (1, 7, 100):
        monkeypatch.setattr(text_table, "BYTES_PER_PIECE", size)
        rows, bad = parsed(text, 2)
        np.testing.assert_array_equal(rows, whole[0])
        assert [b.line for b in bad] == [301]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b"22.350 6.692 3.048 185\x00187 182", [22.35, 6.692, 3.048, 185, 187, 182]),  # Area_5/hallway_6
        (b"19.302 -9.1\x160 1.785 146 137 106", [19.302, -9.16, 1.785, 146, 137, 106]),  # Area_3/hallway_2
        (b"1 2 3 103.0\x100000 167.\x1000000 4.000000", [1, 2, 3, 103, 167, 4]),  # as users quote them
        (b"1 2\x0e5 3 185 187 4\xb4", [1, 2.5, 3, 185, 187, 44]),
        (b"1 2 3 18\x00599 187 4", None),  # a colour beyond 255
        (b"1 2 3 18\x005 187 4", None),  # seven numbers
        (b"1 2 3 1\x825 187 4", None),  # no bit away from what a row is written with
        (b"1 2 1a5 3 187 4", None),  # 1e5 is not what it was
        (b"1 2 3 \x10\x10\x10 187 4", None),  # more than chance
        (b"1 2 3 185 187", None),  # no strange byte: what is missing is not known
    ],
)
def test_a_line_is_mended_where_a_bit_was_lost(line, row):
    assert text_table.mend_line(line, 6, colour=3) == row


# --- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", scene_file.SUFFIXES)
@pytest.mark.parametrize("what", ["points", "colour", "label", "all"])
def test_what_is_written_is_read(suffix, what, tmp_path):
    points, colour, label = scene()
    colour = colour if what in ("colour", "all") else None
    label = label if what in ("label", "all") else None
    path = tmp_path / f"a{suffix}"
    write_scene(path, points, colour, label)
    found = read_scene(path)
    # what the page says of rounding: LAS to 1e-4 m, text to 1e-6; and the half unit of float64 at 5,000,000
    np.testing.assert_allclose(
        found.points, points, rtol=0, atol=6e-5 if suffix in (".las", ".laz") else 6e-7
    )
    for one, other in ((found.colour, colour), (found.label, label)):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
    beside = [path.with_suffix(".labels")] if suffix == ".pts" and label is not None else []
    assert sorted(tmp_path.iterdir()) == sorted([path, *beside])


def test_single_precision_is_kept(tmp_path):
    points, colour, label = scene()
    for suffix in (".ply", ".npy"):
        write_scene(tmp_path / f"a{suffix}", points.astype(np.float32), colour, label + 1000)
        found = read_scene(tmp_path / f"a{suffix}")
        assert found.points.dtype == np.float32
        np.testing.assert_array_equal(found.label, label + 1000)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_of_others(form, tmp_path):
    """Elements before and after the vertices, properties of other programs."""
    kinds = [
        ("x", "f4"),
        ("y", "f4"),
        ("z", "f4"),
        ("nx", "f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
    ]
    order = ">" if "big" in form else "<"
    table = np.zeros(4, [(name, order + kind) for name, kind in [*kinds, ("scalar_Label", "f4")]])
    for name in table.dtype.names:
        table[name] = np.arange(4) * len(name)
    properties = "".join(f"property {'uchar' if kind == 'u1' else 'float'} {name}\n" for name, kind in kinds)
    header = (
        f"ply\nformat {form} 1.0\ncomment by others\nelement camera 1\nproperty float focus\nelement vertex 4\n"
        f"{properties}property float scalar_Label\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    if form == "ascii":
        body = (
            b"1.5\n"
            + "".join(" ".join(map(str, row)) + "\n" for row in table.tolist()).encode()
            + b"3 0 1 2\n"
        )
    else:
        body = np.array([1.5], order + "f4").tobytes() + table.tobytes() + b"\x03" + bytes(12)
    (tmp_path / "a.ply").write_bytes(header.encode() + body)
    found = read_scene(tmp_path / "a.ply")
    assert found.points[:, 1].tolist() == [0, 1, 2, 3]
    assert found.colour[3].tolist() == [9, 15, 12]
    assert found.label.tolist() == [0, 12, 24, 36]
    cut = tmp_path / "b.ply"
    cut.write_bytes((header.encode() + body)[: len(header) + (20 if form == "ascii" else 70)])
    with pytest.raises(
        ShapeError, match=r"b\.ply(, line 19.*not a row| ends after . of 4 points \(truncated)"
    ):
        read_scene(cut)


@pytest.mark.parametrize(
    ("text", "colour", "label"),
    [
        ("1 2 3\n4 5 6", None, None),
        ("1 2 3 0.5\n4 5 6 2", None, None),
        ("1 2 3 7\n4 5 6 2", None, [7, 2]),
        ("1 2 3 255 0 9\n4 5 6 1 2 3", [255, 0, 9], None),
        ("1 2 3 0.5 0 1\n4 5 6 0 0 0", [128, 0, 255], None),
        ("1 2 3 0 0 -1\n4 5 6 0 1 0", None, None),  # normals
        ("1 2 3 255 0 9 4\n4 5 6 1 2 3 5", [255, 0, 9], [4, 5]),
        ("1 2 3 -1800 255 0 9\n4 5 6 -1700 1 2 3", [255, 0, 9], None),  # Semantic3D's
        ("2\n1 2 3 -1800 255 0 9\n4 5 6 -1700 1 2 3", [255, 0, 9], None),  # .pts
        ("//X Y Z Label R G B other\n1 2 3 4 255 0 9 .1\n4 5 6 5 1 2 3 .2", [255, 0, 9], [4, 5]),
        ("\ufeffx,y,z,class\n1,2,3,4\n\n# a remark\n4,5,6,5\n", None, [4, 5]),
        ("\ufeff1 2 3\n4 5 6", None, None),
        ("x y z r g b\n1 2 3 65535 0 2313\n4 5 6 0 0 0", [255, 0, 9], None),
    ],
)
def test_what_columns_mean(text, colour, label, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    found = read_scene(tmp_path / "a.txt")
    np.testing.assert_array_equal(found.points, [[1, 2, 3], [4, 5, 6]])
    assert (None if found.colour is None else found.colour[0].tolist()) == colour
    assert (None if found.label is None else found.label.tolist()) == label


def test_a_room_of_the_peers_as_array(tmp_path):
    points, colour, label = scene()
    np.save(tmp_path / "Area_1_office_1.npy", np.column_stack([points, colour, label]))
    found = read_scene(tmp_path / "Area_1_office_1.npy")
    np.testing.assert_array_equal(found.colour, colour)
    np.testing.assert_array_equal(found.label, label)


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.doc", b"1 2 3", "has the suffix '.doc'; expected one of .ply"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"# nothing\n", "holds no rows"),
        ("a.txt", b"1 2 3\n4 5\n", r"a\.txt, line 2: '4 5' is not a row of 3 numbers"),
        ("a.txt", b"1 2 3 4 5\n", "5 columns.*a first line that names them"),
        ("a.txt", b"x y z label\n1 2 3\n", "line 2: 3 numbers, and the header names 4 columns"),
        ("a.txt", b"x y z label\n1 2 3 0.5\n", "the label of point 0 is 0.5"),
        ("a.txt", b"x y z r g b\n1 2 3 -1 0 0\n", "colours are -1.0"),
        ("a.npy", b"\x93NUMPY", "not a whole .npy"),
        ("a.las", b"LASF" + bytes(100), "not a readable LAS file"),
        ("a.laz", b"LASF" + bytes(400), "not a readable LAS file"),
        ("a.ply", b"solid", "does not begin with ply"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "line 3: the header has no end"),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex x\nend_header\n",
            "line 3: 'element vertex x' is no line",
        ),
        ("a.ply", b"ply\nformat ascii 1.0\nend_header\n", "no element 'vertex'"),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
            "no column y; it has x",
        ),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty int x\nend_header\n1 1\n",
            "element 'vertex' has the property 'x' twice",
        ),
    ],
)
def test_a_broken_file_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ShapeError, match=message) as caught:
        read_scene(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("suffix", [".ply", ".las", ".laz", ".npy"])
def test_a_cut_file_is_named(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    write_scene(path, *scene(500))
    content = path.read_bytes()
    for share in (0.3, 0.7, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ShapeError, match=r"a\.(ply|la[sz]|npy)( ends after|, line| is not)"):
            read_scene(path)


def test_not_finite_points_are_named(tmp_path):
    points, colour, label = scene()
    points[7, 1] = np.nan
    write_scene(tmp_path / "a.ply", points, colour, label)
    with pytest.raises(ShapeError, match="point 7 has coordinates that are not finite"):
        read_scene(tmp_path / "a.ply")


def test_a_column_of_text_is_named(tmp_path):
    table = np.array([("a", 1.0, 2.0)], [("x", "U1"), ("y", "f4"), ("z", "f4")])
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(ShapeError, match=r"a\.npy: column x is of type <U1; expected numbers"):
        read_scene(tmp_path / "a.npy")


def test_a_point_that_lies_far_away_is_refused():
    """At 0, 0 of a scan whose coordinates are large."""
    points = np.random.default_rng(0).uniform(0, 1, (100, 3)) * [6, 4, 2.7] + [300_000, 4_000_000, 50]
    points[7] = 0, 0, 50
    for unit in (None, "m"):
        with pytest.raises(
            ShapeError, match=r"a\.ply spans 3e\+05 x 4e\+06 x \S+ m, and 10,000 m is the most"
        ):
            in_metres("a.ply", points, unit)


def test_las_holds_a_scene_of_any_extent(tmp_path):
    """It counts to 2^31: of 10,000 km a hundredth of a metre is what it can tell."""
    points, colour, label = scene()
    points[7] = 1e7, 0, 0
    write_scene(tmp_path / "a.las", points, colour, label)
    np.testing.assert_allclose(read_scene(tmp_path / "a.las").points, points, rtol=0, atol=1e-2)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.las"
    write_scene(path, *scene())
    before = path.read_bytes()
    points, colour, label = scene()
    with pytest.raises(ShapeError, match=r"beyond 0 .. 255.*\.ply"):
        write_scene(path, points, colour, label + 300)
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(ShapeError, match=r"needs laspy.*pip install -e '\.\[scenes\]'"):
        write_scene(path, points, colour, label)
    with pytest.raises(ShapeError, match=rf"^{tmp_path}/b\.laz needs laspy"):
        scene_file.check_target(tmp_path / "b.laz")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("size", "likely"), [(1, None), (100, "cm"), (1000, "mm")])
def test_a_scene_of_another_unit_asks_for_it(size, likely, tmp_path):
    points = np.random.default_rng(0).uniform(0, 1, (100, 3)) * [6, 4, 2.7] * size
    if likely is None:
        assert in_metres("a.ply", points) is points
        return
    with pytest.raises(ShapeError, match=rf"a\.ply spans .* is it {likely} \(.* m\)\? Give --unit"):
        in_metres("a.ply", points)
    assert in_metres("a.ply", points, "m") is points
    np.testing.assert_allclose(in_metres("a.ply", points, likely) * size, points, rtol=1e-15)
    assert in_metres("a.ply", points.astype(np.float32), likely).dtype == np.float32


@pytest.mark.parametrize(
    ("extent", "low", "question"),
    [
        ((0.002, 0.001, 20), (11.58, 48.15, 520), "are x and y degrees"),
        ((0.6, 0.6, 300), (11.2, 48.1, 500), "are x and y degrees"),
        ((2.1, 1.4, 80), (-122.5, 37, 0), "are x and y degrees"),
        ((1e-4, 1e-4, 0.3), (11.58, 48.15, 52), "are x and y degrees"),
        ((1e-3, 1e-3, 0.004), (11.58, 48.15, 52), "are x and y degrees"),
        ((5, 5, 0.08), (0, 0, 0), r"is it km \(5e\+03 x 5e\+03 x 80 m\)"),
        ((0.9, 0.7, 0.015), (500, 5000, 0.2), r"is it km \(900 x 700 x 15 m\)"),
        ((0.006, 0.004, 0.0027), (0, 0, 0), r"is it km \(6 x 4 x 2\.7 m\)"),
        ((0.9, 0.7, 15), (0, 0, 0), "x and y in another unit than z"),
        ((6, 4, 2700), (0, 0, 0), "x and y in another unit than z"),
        ((6, 4, 270), (0, 0, 0), "x and y in another unit than z"),
        ((6000, 4000, 2.7), (0, 0, 0), "x and y in another unit than z"),
        ((600, 400, 270), (0, 0, 0), r"is it cm \(6 x 4 x 2\.7 m\)"),
    ],
)
def test_units_that_are_no_metres_are_asked_for(extent, low, question):
    points = np.random.default_rng(0).uniform(0, 1, (1000, 3))
    points = (points - points.min(0)) / np.ptp(points, axis=0) * extent + low
    with pytest.raises(ShapeError, match=rf"a\.ply spans .*{question}.*Give --unit m, cm, mm, km, ft"):
        in_metres("a.ply", points)
    assert in_metres("a.ply", points, "m") is points


@pytest.mark.parametrize(
    ("extent", "low"),
    [
        ((6, 4, 2.7), (0, 0, 0)),
        ((6, 4, 2.7), (500_000, 5_000_000, 100)),
        ((6, 4, 2.7), (11, 48, 500)),
        ((500, 500, 20), (500_000, 5_000_000, 100)),
        ((1000, 1000, 8), (0, 0, 0)),
        ((2, 5, 15), (0, 0, 0)),
        ((0.8, 0.6, 0.3), (0, 0, 0)),
        ((40, 40, 90), (0, 0, 0)),
    ],
)
def test_scenes_in_metres_are_not_asked(extent, low):
    points = np.array([[0, 0, 0], [1, 1, 1]]) * extent + low
    assert in_metres("a.ply", points) is points


def test_a_unit_that_the_file_states_is_taken():
    points = np.random.default_rng(0).uniform(0, 1, (100, 3)) * [20, 13, 9]
    np.testing.assert_allclose(in_metres("a.las", points, None, "ft"), points * 0.3048, rtol=1e-15)
    np.testing.assert_allclose(in_metres("a.las", points, None, "us-ft"), points * 1200 / 3937, rtol=1e-15)
    assert in_metres("a.las", points, "m", "ft") is points
    for word in "degree", "fathom":
        with pytest.raises(ShapeError, match=f"states its unit as '{word}'.*metres first.*--unit"):
            in_metres("a.las", points, None, word)
    assert in_metres("a.las", points, "m", "degree") is points


def test_a_unit_in_the_names_of_columns_is_taken(tmp_path):
    (tmp_path / "a.csv").write_text("x [mm],y [mm],z [mm]\n1,2,3\n4,5,6\n")
    assert read_scene(tmp_path / "a.csv").unit == "mm"
    (tmp_path / "a.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    assert read_scene(tmp_path / "a.csv").unit is None


@pytest.mark.parametrize(
    ("red", "said"),
    [
        (np.array([7, 255], np.uint16), ["colours have 16 bits and go up to 255: taken for 0 .. 255"]),
        (np.array([7, 256], np.uint16), []),
        (np.array([0.0, 1.0]), ["colours are 0 or 1: taken for 0 .. 255, nearly black"]),
        (np.array([0.5, 1.0]), []),
        (np.array([7, 255], np.uint8), []),
        (np.array([0, 0], np.uint16), []),
    ],
)
def test_colours_whose_range_is_a_guess_are_said(red, said, tmp_path):
    table = np.zeros(2, [(name, "f8") for name in "xyz"] + [(name, red.dtype) for name in "rgb"])
    table["x"], table["r"] = [0, 1], red
    np.save(tmp_path / "a.npy", table)
    notes = []
    read_scene(tmp_path / "a.npy", notes=notes)
    assert notes == [f"{tmp_path / 'a.npy'}: {line}" for line in said]


def test_of_two_columns_of_labels_that_differ_the_one_that_is_taken_is_said(tmp_path):
    path, notes = tmp_path / "a.csv", []
    path.write_text("x,y,z,class,label\n0,0,0,4,1\n1,1,1,4,2\n")
    assert read_scene(path, notes=notes).label.tolist() == [1, 2]
    assert notes == [f"{path}: the labels are label; class differs from it"]
    path.write_text("x,y,z,class,label\n0,0,0,1,1\n1,1,1,2,2\n")
    assert read_scene(path, notes=(same := [])).label.tolist() == [1, 2]
    assert same == []
