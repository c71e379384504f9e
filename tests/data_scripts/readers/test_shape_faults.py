"""Faults of distributions and shape files: each names its file and its dataset or line."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.readers import ply
from dropfold.data_scripts.readers.mesh import read_off
from dropfold.data_scripts.readers.shapes import ShapeError, read_numbers, read_points, read_shape
from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.shapes import modelnet40, own_meshes
from dropfold.data_scripts.work.errors import SchemaError

FURNITURE = Path(__file__).parents[3] / "data/furniture.h5"


@pytest.fixture(scope="module")
def whole():
    return shape_schema.read(FURNITURE)


# --- ModelNet40 --------------------------------------------------------------------------------------------------


@pytest.fixture
def hdf5_root(whole, tmp_path):
    """The HDF5 distribution with one class, four shapes to train on and two to test."""
    root = tmp_path / "modelnet40_ply_hdf5_2048"
    root.mkdir()
    (root / "shape_names.txt").write_text("chair\n")
    for part, n in (("train0", 4), ("test0", 2)):
        with h5py.File(root / f"ply_data_{part}.h5", "w") as file:
            file["data"], file["normal"] = whole.points[:n, :64], whole.normals[:n, :64]
            file["label"] = np.zeros((n, 1), dtype=np.uint8)
        (root / f"{part[:-1]}_files.txt").write_text(f"data/x/ply_data_{part}.h5\n")
    return root


def change(name, act):
    def on(file):
        values = file[name][:]
        del file[name]
        file[name] = act(values)

    return on


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (change("normal", lambda v: v[:2]), "normal has 2 shapes, data has 4"),
        (lambda f: f.__delitem__("normal"), "only some shapes have normals"),
        (change("label", lambda v: v.astype(float)), "label is float64"),
        (change("label", lambda v: v[:3]), r"expected integers \[4, 1\]"),
        (change("data", lambda v: v * np.nan), "shape 0 holds numbers that are not finite"),
        (change("data", lambda v: v[:, :30]), "64 or more"),
    ],
)
def test_modelnet40_hdf5_faults_name_file_and_dataset(act, message, hdf5_root):
    with h5py.File(hdf5_root / "ply_data_train0.h5", "r+") as file:
        act(file)
    with pytest.raises(SchemaError, match=message) as caught:
        modelnet40.convert(hdf5_root, "hdf5", 64)
    assert "ply_data_t" in str(caught.value)


def test_modelnet40_hdf5_that_is_not_whole(hdf5_root):
    assert modelnet40.convert(hdf5_root, "hdf5", 64).normals.shape == (6, 64, 3)
    path = hdf5_root / "ply_data_test0.h5"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(SchemaError, match=r"ply_data_test0\.h5 is not a whole HDF5 file"):
        modelnet40.convert(hdf5_root, "hdf5", 64)
    path.unlink()
    with pytest.raises(SchemaError, match=r"named in test_files\.txt, is not there"):
        modelnet40.convert(hdf5_root, "hdf5", 64)
    for lists in ("train_files.txt", "test_files.txt"):
        (hdf5_root / lists).write_text("")
    with pytest.raises(SchemaError, match="names no shapes"):
        modelnet40.convert(hdf5_root, "hdf5", 64)


def test_modelnet40_text_is_read_in_bounded_memory(tmp_path, whole):
    """Of each table only the points asked for are kept: the peak hardly grows with the number of shapes."""
    root = tmp_path / "modelnet40_normal_resampled"
    (root / "chair").mkdir(parents=True)
    table = np.concatenate([whole.points[0], whole.normals[0]], 1)
    for i in range(65):
        np.savetxt(root / f"chair/chair_{i:04d}.txt", table, "%.3f", delimiter=",")
    (root / "modelnet40_shape_names.txt").write_text("chair\n")
    (root / "modelnet40_test.txt").write_text("chair_0000\n")

    def peak(n):
        (root / "modelnet40_train.txt").write_text("".join(f"chair_{i:04d}\n" for i in range(1, n + 1)))
        tracemalloc.start()
        clouds = modelnet40.convert(root, "normal_resampled", 16)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert clouds.points.shape == (n + 1, 16, 3)
        return found

    peak(4)  # what the first call imports is not counted
    # A shape's table is 1,024 rows of 6 float64, 49,152 bytes; the 16 points and normals kept of it are 384, and
    # paths and names take some hundred. A tenth of a table lies well between.
    assert (peak(64) - peak(4)) / 60 < 4_915


# --- OFF and tables ----------------------------------------------------------------------------------------------


def test_colours_in_an_off_file_are_left(tmp_path):
    path = tmp_path / "a.off"
    rows = "0 0 0 255 0 0\n1 0 0 255 0 0\n# a remark\n0 1 0 255 0 0\n0 0 1 255 0 0\n"
    path.write_text(f"OFF4 2 0\n{rows}3 0 1 2 255 9 9\n3 1 2 3 255 9 9\n")
    vertices, faces = read_off(path)
    assert faces.tolist() == [[0, 1, 2], [1, 2, 3]]
    np.testing.assert_array_equal(vertices, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_the_header_off490_518_0_of_modelnet40(tmp_path, whole):
    rows = "".join("{} {} {}\n".format(*p) for p in whole.points[0, :490])
    faces = "".join(f"3 {i % 490} {(i + 1) % 490} {(i + 2) % 490}\n" for i in range(518))
    (tmp_path / "a.off").write_text(f"OFF490 518 0\n{rows}{faces}")
    vertices, triangles = read_off(tmp_path / "a.off")
    np.testing.assert_array_equal(vertices.astype(np.float32), whole.points[0, :490])
    assert triangles.shape == (518, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OFF\n", "line 1: ends before"),
        ("OFF\n3 x 0\n", "line 2: '3 x 0' holds a word"),
        ("OFF\n-3 1 0\n", "line 2: -3 vertices"),
        ("OFF\n3 1 0\n0 0 0\n\n1 b 0\n0 1 0\n3 0 1 2\n", "line 5: '1 b 0' holds a word"),
        ("OFF\n3 1 0\n0 0 0\n1 0\n0 1 0\n3 0 1 2\n", "line 4: a vertex ends before"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -2\n", "line 6: a face with vertex -2"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n-1 0 1\n", "line 6: a face ends before its -1"),
        ("OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", r"line 6: ends before .* 4 of 5"),
    ],
)
def test_off_faults_name_the_line(text, message, tmp_path):
    (tmp_path / "a.off").write_text(text)
    with pytest.raises(ShapeError, match=message):
        read_off(tmp_path / "a.off")


def test_colours_are_not_normals(tmp_path, whole):
    colours = np.random.default_rng(0).integers(0, 256, (1024, 3))
    for columns, kept in ((whole.normals[0], True), (colours, False)):
        np.savetxt(tmp_path / "a.xyz", np.concatenate([whole.points[0], columns], 1))
        assert (read_shape(tmp_path / "a.xyz", 100)[1] is not None) == kept


def test_a_cloud_of_ply_keeps_its_normals(tmp_path, whole):
    axes = dict(zip(("x", "y", "z"), whole.points[0].T, strict=True))
    ply.write_vertices(tmp_path / "bare.ply", axes)
    assert read_shape(tmp_path / "bare.ply", 100)[1] is None
    axes |= dict(zip(("nx", "ny", "nz"), whole.normals[0].T, strict=True))
    ply.write_vertices(tmp_path / "a.ply", axes)
    points, normals = read_points(tmp_path / "a.ply", 100, whole=True)
    np.testing.assert_array_equal(points, whole.points[0])
    np.testing.assert_array_equal(normals, whole.normals[0])


def test_more_broken_shapes_are_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("# nothing\n\n")
    with pytest.raises(ShapeError, match="holds no numbers"):
        read_numbers(path)
    path.write_text("1 2 3\n")
    with pytest.raises(ShapeError, match="0 points were asked for"):
        read_shape(path, 0)
    header = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    for body in ("0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "0 0 0\nnan 0 0\n0 1 0\n3 0 1 2\n"):
        (tmp_path / "a.ply").write_text(header + body)
        with pytest.raises(ShapeError, match=r"a\.ply"):
            read_shape(tmp_path / "a.ply", 10)


# --- folders of one's own ----------------------------------------------------------------------------------------


def test_a_zip_of_shapes_states_the_zip_as_its_source(tmp_path, whole, run_python):
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as file:
        for i in range(3):
            text = io.StringIO()
            np.savetxt(text, whole.points[i])
            file.writestr(f"mine/chair/{i}.xyz", text.getvalue())
            file.writestr(f"__MACOSX/mine/chair/._{i}.xyz", "\0\1")
        file.writestr("mine/chair/broken.off", "OFF")
    out = tmp_path / "out.h5"
    command = ("-m", "dropfold", "data", "meshes", "--points", "32", "--out", str(out), "--source")
    done = run_python(*command, str(tmp_path / "mine.zip"))
    assert done.returncode == 0, done.stderr
    assert "left out:" in done.stdout
    assert "broken.off" in done.stdout
    clouds = shape_schema.read(out)
    assert clouds.rebuild.startswith("dropfold data meshes --source mine.zip --out")
    assert str(tmp_path) not in clouds.rebuild + clouds.source
    assert sorted(clouds.split.tolist()) == [0, 1, 2]
    done = run_python(*command, str(tmp_path / "no.zip"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_hidden_files_are_no_shapes(tmp_path, whole):
    (tmp_path / "chair").mkdir()
    for name in ("a.xyz", "b.xyz", "._a.xyz"):
        np.savetxt(tmp_path / "chair" / name, whole.points[0])
    clouds, faults = own_meshes.convert(tmp_path, 16)
    assert clouds.name == ["chair/a.xyz", "chair/b.xyz"]
    assert faults == [
        "note: all shapes are of the class chair: training needs two classes or more",
        "note: 1 file was not read, hidden: chair/._a.xyz",
        "note: 3 files in all: 2 read, 1 not read",
    ]
