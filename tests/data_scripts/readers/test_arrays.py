"""Tables as arrays of NumPy, and tables that are written: others read them, and so do we."""

import numpy as np
import pytest

from dropfold.data_scripts.readers import npy
from dropfold.data_scripts.readers.scene_file import read_scene, write_scene
from dropfold.data_scripts.readers.shapes import read_points
from dropfold.data_scripts.work.errors import ShapeError
from tests.data_scripts.readers.tables import POINTS, both, cloud, columns_of, write


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
