"""The data scripts on small files in exactly the distributed layouts, with real shapes in them, and on broken ones."""

import io
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.readers.mesh import read_off
from dropfold.data_scripts.readers.shapes import ShapeError, read_shape
from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.shapes import modelnet40, own_meshes
from dropfold.data_scripts.work import archive
from dropfold.data_scripts.work.errors import ArchiveError, SchemaError

FURNITURE = Path(__file__).parents[3] / "data/furniture.h5"


@pytest.fixture(scope="session")
def furniture():
    return shape_schema.read(FURNITURE)


def test_the_shipped_data_are_whole(furniture):
    assert [len(furniture.of(split)) for split in range(3)] == [213, 39, 108]
    assert furniture.points.shape == (360, 1024, 3)
    assert len(furniture.class_names) == 12
    assert set(furniture.label[furniture.of(1)]) == set(range(12))
    credits = (FURNITURE.parent / "CREDITS.md").read_text()
    for name, library in zip(furniture.name, furniture.library):
        assert name in credits.split(f"### {library}")[1].split("###")[0]


# --- the schema --------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, furniture):
    """A whole small file, to be broken."""
    part = replace(
        furniture,
        points=furniture.points[:20, :16],
        normals=None,
        label=furniture.label[:20],
        split=furniture.split[:20],
        name=furniture.name[:20],
        library=None,
    )
    shape_schema.write(tmp_path / "small.h5", part)
    return tmp_path / "small.h5"


def test_what_is_written_is_read(file, furniture):
    found = shape_schema.read(file)
    np.testing.assert_array_equal(found.points, furniture.points[:20, :16])
    assert found.name == furniture.name[:20]
    assert found.class_names == furniture.class_names
    assert found.normals is None


def set_item(name, change):
    def act(f):
        values = f[name][:]
        del f[name]
        f[name] = change(values)

    return act


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: f.__delitem__("label"), "has no dataset 'label'"),
        (set_item("points", lambda v: v.astype(np.float64)), "points's type is float64, expected float32"),
        (set_item("label", lambda v: v + 12), "label is 12 .. .*, expected 0 .. 11"),
        (set_item("split", lambda v: v + 3), "split is up to"),
        (set_item("points", lambda v: v[:, :, :2]), "points' shape"),
        (
            set_item("points", lambda v: np.where(v == v[3, 0, 0], np.nan, v)),
            "points of shape 3 .* not finite",
        ),
        (set_item("label", lambda v: v[:-1]), "label's shape"),
        (set_item("points", lambda v: v * 2), "checksum"),
        (lambda f: f.attrs.__setitem__("schema", "other/2"), "schema is 'other/2'"),
        (lambda f: f.attrs.__setitem__("class_names", []), "class_names is empty"),
    ],
)
def test_a_broken_file_is_named_with_the_way_to_mend_it(file, act, message):
    with h5py.File(file, "r+") as f:
        act(f)
    with pytest.raises(SchemaError, match=message) as caught:
        shape_schema.read(file)
    assert str(file) in str(caught.value)
    assert "dropfold data furniture" in str(caught.value)


def test_a_truncated_or_empty_file_is_named(file):
    content = file.read_bytes()
    for part in (content[: len(content) // 2], b""):
        file.write_bytes(part)
        with pytest.raises(SchemaError, match="not a whole HDF5 file"):
            shape_schema.read(file)


def test_a_failed_write_leaves_the_old_file(file, furniture, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(SchemaError, match=r"could not be written \(disk full\)"):
        shape_schema.write(file, shape_schema.read(file))
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]
    with pytest.raises(SchemaError, match="label"):
        shape_schema.write(file, replace(shape_schema.read(file), label=furniture.label[:19]))


# --- archives ----------------------------------------------------------------------------------------------------


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in members.items():
            z.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:/evil.txt"])
def test_paths_out_of_the_folder_are_refused(name, tmp_path):
    path = zipped(tmp_path / "a.zip", {"fine.txt": "x", name: "x"})
    with pytest.raises(ArchiveError, match="outside its folder"):
        archive.extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil.txt").exists()


def test_links_in_a_tar_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ArchiveError, match="a link"):
        archive.extract(tmp_path / "a.tar", tmp_path / "out")


def test_a_truncated_archive_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", {"fine.txt": "x" * 1000})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArchiveError, match=r"a\.zip"), archive.open_as_folder(path):
        pass
    with pytest.raises(ArchiveError, match="is not there"), archive.open_as_folder(tmp_path / "none.zip"):
        pass


def test_a_download_goes_on_where_it_stopped_and_is_checked(tmp_path, monkeypatch):
    import hashlib
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    monkeypatch.setattr(archive, "SCHEMES", ("http",))
    content, asked = os.urandom(300_000), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            asked.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url, path = f"http://127.0.0.1:{server.server_port}/a.zip", tmp_path / "a.zip"
        (tmp_path / "a.zip.part").write_bytes(content[:100_000])
        with pytest.raises(ArchiveError, match="expected 00"):
            archive.download(url, path, "00")
        assert not path.exists()
        archive.download(url, path, hashlib.sha256(content).hexdigest())
        assert path.read_bytes() == content
        assert asked == [100_000, 300_000]
    finally:
        server.shutdown()
        server.server_close()


# --- ModelNet40 --------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(furniture):
    """(class name, points, normals) of eight shapes of two classes."""
    chosen = [i for c in (0, 1) for i in np.flatnonzero(furniture.label == c)[:4]]
    names = [furniture.class_names[furniture.label[i]] for i in chosen]
    return list(zip(names, furniture.points[chosen], furniture.normals[chosen]))


def hdf5_layout(root, shapes):
    root.mkdir()
    (root / "shape_names.txt").write_text("chair\ntable\n")
    for part, chosen in (("train1", shapes[2:4]), ("train0", shapes[4:7]), ("test0", [shapes[0], shapes[7]])):
        with h5py.File(root / f"ply_data_{part}.h5", "w") as f:
            f["data"] = np.stack([s[1] for s in chosen])
            f["normal"] = np.stack([s[2] for s in chosen])
            f["label"] = np.array([[["chair", "table"].index(s[0])] for s in chosen], dtype=np.uint8)
    prefix = "data/modelnet40_ply_hdf5_2048"
    (root / "train_files.txt").write_text(f"{prefix}/ply_data_train1.h5\n{prefix}/ply_data_train0.h5\n")
    (root / "test_files.txt").write_text(f"{prefix}/ply_data_test0.h5\n")


def test_modelnet40_hdf5(tmp_path, shapes):
    hdf5_layout(tmp_path / "modelnet40_ply_hdf5_2048", shapes)
    found = modelnet40.convert(tmp_path, "hdf5", 512, validation=0)
    expected = [*shapes[2:4], *shapes[4:7], shapes[0], shapes[7]]  # the order of the lists
    np.testing.assert_array_equal(found.points, np.stack([s[1][:512] for s in expected]))
    assert [found.class_names[c] for c in found.label] == [s[0] for s in expected]
    assert found.split.tolist() == [0] * 5 + [2] * 2
    assert modelnet40.convert(tmp_path, "hdf5", 512).split.tolist().count(1) == 2


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: f.__delitem__("data"), "has no dataset 'data'"),
        (set_item("data", lambda v: (100 * v).astype(np.int32)), "data is int32"),
        (set_item("label", lambda v: v + 2), "expected .* below 2"),
    ],
)
def test_modelnet40_hdf5_broken(act, message, tmp_path, shapes):
    hdf5_layout(tmp_path / "m", shapes)
    with h5py.File(tmp_path / "m/ply_data_train0.h5", "r+") as f:
        act(f)
    with pytest.raises(SchemaError, match=message):
        modelnet40.convert(tmp_path / "m", "hdf5", 512)


def test_modelnet40_normal_resampled(tmp_path, shapes):
    root, lists = tmp_path / "modelnet40_normal_resampled", {"train": [], "test": []}
    for i, (name, points, normals) in enumerate(shapes):
        (root / name).mkdir(parents=True, exist_ok=True)
        token = f"{name}_{i:04d}"
        np.savetxt(root / name / f"{token}.txt", np.concatenate([points, normals], 1), "%.6f", delimiter=",")
        lists["test" if i % 4 == 3 else "train"].append(token)
    (root / "modelnet40_shape_names.txt").write_text("chair\ntable\n")
    for part, tokens in lists.items():
        (root / f"modelnet40_{part}.txt").write_text("\n".join(tokens) + "\n")
    found = modelnet40.convert(tmp_path, "normal_resampled", 256, validation=0)
    assert found.split.tolist() == [0] * 6 + [2] * 2
    assert found.points.shape == (8, 256, 3)
    np.testing.assert_allclose(np.linalg.norm(found.points, axis=2).max(1), 1, atol=1e-6)
    np.testing.assert_allclose(found.normals[0], shapes[0][2][:256], atol=1e-5)
    broken = root / "chair" / "chair_0001.txt"
    lines = broken.read_text().splitlines()
    lines[6] = "0.1,0.2,x,0,0,1"
    broken.write_text("\n".join(lines))
    with pytest.raises(ShapeError, match=r"chair_0001\.txt, line 7"):
        modelnet40.convert(tmp_path, "normal_resampled", 256)


def off_text(points, header="OFF\n"):
    """Triangles between consecutive points of a real cloud."""
    faces = "".join(f"3 {i} {i + 1} {i + 2}\n" for i in range(len(points) - 2))
    rows = "".join("{} {} {}\n".format(*p) for p in points)
    return f"{header}{len(points)} {len(points) - 2} 0\n{rows}{faces}"


def test_modelnet40_off(tmp_path, shapes, caplog):
    for i, (name, points, _) in enumerate(shapes):
        folder = tmp_path / "ModelNet40" / name / ("test" if i % 4 == 3 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_{i}.off").write_text(off_text(points[:90], "OFF" if i % 2 else "OFF\n"))
    found = modelnet40.convert(tmp_path, "off", 300, validation=0)
    assert found.points.shape == (8, 300, 3)
    assert sorted(found.split.tolist()) == [0] * 6 + [2] * 2
    assert "known from training" not in caplog.text
    test, train = (
        next(iter((tmp_path / "ModelNet40").glob(f"*/{word}/*.off"))) for word in ("test", "train")
    )
    test.write_bytes(train.read_bytes())  # whose points are drawn with other numbers
    modelnet40.convert(tmp_path, "off", 300, validation=0)
    assert (
        f"1 shape that tests is known from training, which flatters the scores: {test.parts[-3]}/{test.stem} -> "
        in (caplog.text)
    )


def test_off_without_its_line_break(tmp_path):
    vertices = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
    for header in ("OFF4 2 0\n", "OFF\n4 2 0\n", "OFF 4 2 0\n"):
        path = tmp_path / "a.off"
        path.write_text(header + vertices + "3 0 1 2\n4 0 1 2 3\n")
        points, faces = read_off(path)
        assert points.shape == (4, 3)
        assert faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]]
    for text, message in (
        ("OFF\n4 2 0\n" + vertices + "3 0 1 2\n3 0 1", "ends before"),
        ("OFF\n4 1 0\n" + vertices + "3 0 1 9\n", "vertex 9"),
        ("OFF\n4 1 0\n0 0 a\n" + vertices + "3 0 1 2\n", "a word where a number"),
        ("solid x\n", "does not begin with OFF"),
    ):
        path.write_text(text)
        with pytest.raises(ShapeError, match=message):
            read_off(path)


# --- one's own shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".off", ".obj", ".stl", ".ply", ".xyz", ".txt", ".csv", ".npy"])
def test_every_kind_of_file_is_read(suffix, tmp_path, furniture):
    import trimesh

    path, cloud = tmp_path / f"shape{suffix}", 5 * furniture.points[0] + 2
    if suffix in (".off", ".obj", ".stl", ".ply"):
        box = trimesh.creation.box((1.0, 2.0, 3.0))
        path.write_bytes(
            data if isinstance(data := box.export(file_type=suffix[1:]), bytes) else data.encode()
        )
    elif suffix == ".npy":
        np.save(path, cloud)
    else:
        np.savetxt(path, cloud, delimiter="," if suffix == ".csv" else " ")
    points, normals = read_shape(path, 500)
    assert points.shape == (500, 3)
    assert points.dtype == np.float32
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)
    if normals is not None:  # a box: along the axes
        np.testing.assert_allclose(np.abs(normals).max(1), 1, atol=1e-5)
        extent = np.ptp(points, axis=0)
        np.testing.assert_allclose(extent / extent[2], [1 / 3, 2 / 3, 1], atol=0.02)
    again, _ = read_shape(path, 500)
    np.testing.assert_array_equal(points, again)
    assert read_shape(path, 5000)[0].shape == (5000, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.off", b"", "is empty"),
        ("a.doc", b"x", "suffix '.doc'"),
        ("a.xyz", b"1 2 3\n4 5 x\n", "line 2: '4 5 x'"),
        ("a.xyz", b"1 2\n3 4\n", r"expected numbers \[points, 3 or more\]"),
        ("a.xyz", b"1 2 nan\n3 4 5\n", "not finite"),
        ("a.obj", b"nothing here\n", "a.obj"),
        ("a.ply", b"ply\nformat", "a.ply"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n", "no surface"),
    ],
)
def test_broken_shapes_are_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ShapeError, match=message):
        read_shape(tmp_path / name, 10)


def test_a_pickled_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ShapeError, match="not a table of numbers"):
        read_shape(tmp_path / "a.npy", 10)


def test_a_folder_of_shapes_becomes_a_data_set(tmp_path, shapes):
    for i, (name, points, _) in enumerate(shapes):
        (tmp_path / "mine" / name).mkdir(parents=True, exist_ok=True)
        np.savetxt(tmp_path / "mine" / name / f"{i}.xyz", points)
    (tmp_path / "mine/chair/broken.off").write_text("OFF")
    clouds, faults = own_meshes.convert(tmp_path / "mine", 128)
    assert clouds.points.shape == (8, 128, 3)
    assert clouds.class_names == ["chair", "table"]
    assert faults[0] == "note: 9 files in all: 8 read, 1 not read"
    assert len(faults) == 2
    assert "broken.off" in faults[1]
    shape_schema.write(tmp_path / "mine.h5", clouds)
    assert shape_schema.read(tmp_path / "mine.h5").name == clouds.name
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for i, (name, points, _) in enumerate(shapes):
            text = io.StringIO()
            np.savetxt(text, points)
            z.writestr(f"{name}/{'test' if i % 4 == 0 else 'train'}/{i}.xyz", text.getvalue())
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with archive.open_as_folder(tmp_path / "a.zip") as folder:
        clouds, _ = own_meshes.convert(folder, 64)
    assert sorted(clouds.split.tolist()) == [0, 0, 0, 0, 1, 1, 2, 2]


def test_an_empty_class_or_folder_is_an_error(tmp_path):
    with pytest.raises(SchemaError, match="one folder a class"):
        own_meshes.convert(tmp_path, 10)
    (tmp_path / "chair").mkdir()
    (tmp_path / "chair/a.off").write_text("OFF")
    with pytest.raises(SchemaError, match=r"no readable shape is left of chair[\s\S]*a\.off"):
        own_meshes.convert(tmp_path, 10)
