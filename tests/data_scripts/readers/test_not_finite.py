"""NaN that signals and NaN that does not, in every binary format: refused by name, or left out where that is asked for.

NumPy warns when it converts the first, and warnings are errors here.
"""

import json
import struct

import numpy as np
import pytest

from dropfold.data_scripts.readers.columns import AS_FOUND
from dropfold.data_scripts.readers.npz import as_float32
from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.shapes import read_shape
from dropfold.data_scripts.shapes import labeled_meshes
from dropfold.data_scripts.work.errors import ShapeError

NAMES = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "label"]
PCD_NAMES = ["x", "y", "z", "normal_x", "normal_y", "normal_z", "r", "g", "b", "label"]
N, BAD = 40, 7
SIGNALLING = {2: 0x7D00, 4: 0x7FA00000, 8: 0x7FF4000000000000}
WORDS = {4: "float", 8: "double"}


def table(kind, column, signalling):
    """40 points of ten numbers, one of which is none."""
    random = np.random.default_rng(0)
    rows = random.random((N, len(NAMES))).astype(kind)
    rows[:, 6:9] = random.integers(0, 256, (N, 3))
    rows[:, 9] = random.integers(0, 3, N)
    rows[BAD, column] = np.nan
    if signalling:
        rows.view(f"u{rows.itemsize}")[BAD, column] = SIGNALLING[rows.itemsize]
    return rows


def ply(rows, order="little"):
    words = "".join(f"property {WORDS[rows.itemsize]} {name}\n" for name in NAMES)
    head = f"ply\nformat binary_{order}_endian 1.0\nelement vertex {N}\n{words}end_header\n"
    return head.encode() + (rows.byteswap() if order == "big" else rows).tobytes()


def pcd(rows, form="binary"):
    columns, size = len(NAMES), rows.itemsize
    head = (
        f"VERSION .7\nFIELDS {' '.join(PCD_NAMES)}\nSIZE {f'{size} ' * columns}\nTYPE {'F ' * columns}\n"
        f"COUNT {'1 ' * columns}\nWIDTH {N}\nHEIGHT 1\nPOINTS {N}\nDATA {form}\n"
    )
    body = rows.tobytes()
    if form == "binary_compressed":
        whole = rows.T.tobytes()
        parts = [whole[i : i + 32] for i in range(0, len(whole), 32)]
        packed = b"".join(bytes([len(part) - 1]) + part for part in parts)  # LZF of nothing that repeats
        body = struct.pack("<II", len(packed), len(whole)) + packed
    return head.encode() + body


def npy(path, rows):
    np.save(path, rows.view([(name, rows.dtype) for name in NAMES])[:, 0])


CLOUDS = {
    "ply": lambda path, rows: path.write_bytes(ply(rows)),
    "big.ply": lambda path, rows: path.write_bytes(ply(rows, "big")),
    "pcd": lambda path, rows: path.write_bytes(pcd(rows)),
    "compressed.pcd": lambda path, rows: path.write_bytes(pcd(rows, "binary_compressed")),
    "npy": npy,
}


@pytest.mark.parametrize("signalling", [False, True])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("form", CLOUDS)
def test_a_point_of_a_cloud_is_named_or_left_out(form, kind, signalling, tmp_path):
    if kind == "f2" and form != "npy":
        pytest.skip("the format has none of 16 bits")
    path = tmp_path / f"a.{form}"
    drop = AS_FOUND._replace(drop_nan=True)
    for column, name in enumerate(NAMES):
        CLOUDS[form](path, rows := table(kind, column, signalling))
        axis, normal = column < 3, 3 <= column < 6
        for read, used in ((read_scene, not normal), (lambda p, **o: read_shape(p, N, **o), axis or normal)):
            if not used:
                read(path, notes=[])
                continue
            with pytest.raises(
                ShapeError, match=rf"a\.{form}: point {BAD} has .* not finite, the first of 1 such"
            ):
                read(path, notes=[])
            read(path, layout=drop, notes=(said := []))
            assert any("1 of 40 points are left out, for they are not finite" in line for line in said), name
        if not normal:
            scene = read_scene(path, layout=drop, notes=[])
            np.testing.assert_array_equal(scene.points, np.delete(rows[:, :3], BAD, 0))


@pytest.mark.parametrize("signalling", [False, True])
def test_a_vertex_of_a_mesh_is_refused(signalling, tmp_path):
    """A face would go with it."""
    vertices = np.ascontiguousarray(table("f4", 1, signalling)[:39, :3])
    corners = np.zeros(13, [("n", "u1"), ("v", "<i4", 3)])
    corners["n"], corners["v"] = 3, np.arange(39).reshape(13, 3)
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 39\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 13\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_bytes(head.encode() + vertices.tobytes() + corners.tobytes())
    facets = np.zeros(13, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    facets["corners"] = vertices.reshape(13, 3, 3)
    (tmp_path / "a.stl").write_bytes(bytes(80) + struct.pack("<I", 13) + facets.tobytes())
    scene = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "scale": [2, 2, 2]}], "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 39, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 468}], "buffers": [{"byteLength": 468}],
    }  # fmt: skip
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunks = (
        struct.pack("<I", len(text)) + b"JSON" + text + struct.pack("<I", 468) + b"BIN\0" + vertices.tobytes()
    )
    (tmp_path / "a.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks)
    for name in ("a.ply", "a.stl", "a.glb"):
        for layout in (AS_FOUND, AS_FOUND._replace(drop_nan=True)):
            with pytest.raises(
                ShapeError, match=rf"{name} holds coordinates that are not finite, the first of vertex \d+"
            ):
                read_shape(tmp_path / name, 16, layout=layout)


def test_arrays_of_a_source_are_refused_by_the_name_of_their_shape(tmp_path):
    points = np.random.default_rng(0).random((4, 8, 3))
    points.view("u8")[2, 3, 1] = SIGNALLING[8]
    points[3, 0, 0] = 1e300
    assert np.isnan(as_float32(points)[2, 3, 1])
    assert np.isinf(as_float32(points)[3, 0, 0])
    np.savez(
        tmp_path / "a.npz", points=points, normals=points, label=np.arange(4) % 2, train=np.array([1, 1, 0, 0], bool),
        name=np.array(list("abcd")), classes=np.array(["p", "q"]),
    )  # fmt: skip
    options = labeled_meshes.Options(source=tmp_path / "a.npz", out=tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"points of shape 2 \(c\) is not finite, expected numbers"):
        labeled_meshes.main(options)
