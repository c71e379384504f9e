"""Meshes as other programs write them, read to the same triangles; cut and broken ones named."""

import base64
import json
import logging
import re
import struct

import numpy as np
import pytest

from dropfold.data_scripts.readers import mesh
from dropfold.data_scripts.readers.mesh import read_triangles
from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.shapes import read_points
from dropfold.data_scripts.work.errors import ShapeError

CUBE = np.array([[x, y, z] for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))], dtype=float)
QUADS = [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4]]
TRIANGLES = [[1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7]]
FACES = [*QUADS, *TRIANGLES]


def surface(found):
    """What a mesh is, whatever the order of its triangles: the sum of the areas, the volume, and the extent."""
    a, b, c = (found.vertices[found.triangles[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    volume = (a * np.cross(b, c)).sum() / 6  # signed: each face's outside is where it was
    return round(area, 5), round(volume, 5), found.vertices.min(0).tolist(), found.vertices.max(0).tolist()


def is_cube(found, size=1.0, corner=(0.0, 0.0, 0.0)):
    low = list(corner)
    return surface(found) == (round(6 * size**2, 5), round(size**3, 5), low, [one + size for one in low])


# --- PLY ---------------------------------------------------------------------------------------------------------


def texture(corners, lists):
    return [("B", 2 * corners), *[("f", 0.25)] * (2 * corners)] if lists else []


def ply(
    form, *, first="vertex", index="vertex_indices", end="\n", extra="", before=b"", lists=False, comment=True
):
    """A cube of quads and triangles, with what other programs add."""
    order = ">" if "big" in form else "<"
    text = form == "ascii"
    vertex = ["element vertex 8", *(f"property float {axis}" for axis in "xyz")]
    face = ["element face 9", "property uchar flags", f"property list uchar int {index}"]
    if lists:
        vertex.insert(2, "property list ushort float weights")
        face.append("property list uchar float texcoord")
    elements = [vertex, face] if first == "vertex" else [face, vertex]
    if extra:
        elements.insert(1, [f"element {extra} 2", "property list uint short chain", "property double length"])
    header = ["ply", f"format {form} 1.0", *(["comment by others", "obj_info none"] if comment else [])]
    header += [line for element in elements for line in element] + ["end_header"]
    weights = [("H", 2), ("f", 0.5), ("f", 0.5)] if lists else []
    rows = {
        "vertex": [[("f", x), *weights, ("f", y), ("f", z)] for x, y, z in CUBE],
        "face": [
            [("B", 1), ("B", len(one)), *(("i", c) for c in one), *texture(len(one), lists)] for one in FACES
        ],
        extra: [[("I", 3), ("h", -1), ("h", 2), ("h", 3), ("d", 0.5)], [("I", 0), ("d", 1.5)]],
    }
    content = b""
    for element in elements:
        for row in rows[element[0].split()[1]]:
            if text:
                content += (" ".join(f"{v:g}" for _, v in row) + end).encode()
            else:
                content += b"".join(struct.pack(order + kind, v) for kind, v in row)
    return end.join(header).encode() + end.encode() + content


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"first": "face"},
        {"index": "vertex_index"},
        {"end": "\r\n"},
        {"end": "\r"},
        {"extra": "edge_loop"},
        {"lists": True},
        {"lists": True, "first": "face", "extra": "chain"},
    ],
    ids=str,
)
def test_ply_of_quads_and_triangles(form, given, tmp_path):
    content = ply(form, **given)
    (tmp_path / "a.ply").write_bytes(content)
    found = read_triangles(tmp_path / "a.ply")
    assert is_cube(found)
    # The triangles first, then both halves of the quads: the order in which seeds have always drawn.
    assert found.triangles[:6].tolist() == TRIANGLES
    assert found.triangles[6:9].tolist() == [[a, b, c] for a, b, c, _ in QUADS]
    for cut in range(30, len(content) - (2 if form == "ascii" else 0), 41):
        (tmp_path / "b.ply").write_bytes(content[:cut])
        with pytest.raises(ShapeError, match=r"b\.ply(, line \d+)?:? .*(truncated\?|is not a row)"):
            read_triangles(tmp_path / "b.ply")


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_the_vertices_of_a_ply_are_a_scene(form, tmp_path):
    """Lists among the vertices' properties and faces before them are walked over; cut among its faces a file is refused."""
    content = ply(form, lists=True, first="face").replace(b"property float x", b"property float X")
    (tmp_path / "a.ply").write_bytes(content)
    assert read_scene(tmp_path / "a.ply").points.tolist() == CUBE.tolist()
    assert is_cube(read_triangles(tmp_path / "a.ply"))
    (tmp_path / "b.ply").write_bytes(ply(form)[:-9])
    with pytest.raises(
        ShapeError, match=r"b\.ply( ends after 8 of 9 faces \(truncated|, line \d+: .* is not a row)"
    ):
        read_scene(tmp_path / "b.ply")


def test_ply_with_a_depth_cameras_missing_points(tmp_path):
    """Words that are numbers of no value: named, not taken for damage."""
    header = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    (tmp_path / "a.ply").write_text(header + "0 0 0\nnan nan nan\n1 1 inf\n")
    with pytest.raises(ShapeError, match="point 1 has coordinates that are not finite"):
        read_scene(tmp_path / "a.ply")


def test_ply_without_a_last_line_break(tmp_path):
    """As VCGLIB and editors leave it."""
    content = ply("ascii")
    (tmp_path / "a.ply").write_bytes(content[:-1])
    assert is_cube(read_triangles(tmp_path / "a.ply"))
    header = (
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
    )
    (tmp_path / "b.ply").write_bytes(
        header + b"element face 0\nproperty list uchar int i\nend_header\n1 2 3\n4 5 6"
    )
    points, _ = read_points(tmp_path / "b.ply", 9, whole=True)
    assert points.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_what_follows_the_rows_that_ply_counts_is_left_and_said(form, tmp_path, caplog):
    """The header is right: 8 points and 9 faces, whatever comes behind."""
    (tmp_path / "a.ply").write_bytes(ply(form) + b"3 1 2 6 \n")
    with caplog.at_level(logging.WARNING, "dropfold"):
        assert is_cube(read_triangles(tmp_path / "a.ply"))
    assert "a.ply" in caplog.text
    assert "what follows the 9 faces that its header counts is left" in caplog.text


def test_ply_of_strips(tmp_path):
    """As Stanford's dragon comes: -1 begins another strip, and every other triangle is turned around."""
    header = "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    rows = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in CUBE)
    around, bottom, top = "0 4 3 7 2 6 1 5 0 4", "0 3 1 2", "4 5 7 6"
    strip = f"{around} -1 {bottom} -1 {top}"
    (tmp_path / "a.ply").write_text(f"{header}{rows}{len(strip.split())} {strip}\n")
    found = read_triangles(tmp_path / "a.ply")
    assert len(found.triangles) == 12
    assert abs(surface(found)[1]) == 1  # all triangles look to the same side
    assert surface(found)[0] == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"face 9", b"face 4000000000", r"ends after \d+ of 4000000000 faces \(truncated"),
        (b"vertex 8", b"vertex 99999999999999999999", r"ends after \d+ of 99999999999999999999 points"),
        (b"vertex 8", b"vertex 8.5", "line 5: 'element vertex 8.5' is no line"),
        (b"uchar int v", b"float int v", "is no line of a PLY header"),
        (b"uchar int v", b"char int w", None),
        (b"vertex_indices", b"x", None),  # the only list is the faces'
        (b"element face", b"element vertex", "has the element 'vertex' twice"),
        (b"property float z\n", b"property list uchar float z\n", "ends after|list|no column z|not a"),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["ascii", "binary_big_endian"])
def test_ply_headers_that_do_not_fit(form, old, new, message, tmp_path):
    (tmp_path / "a.ply").write_bytes(ply(form).replace(old, new, 1))
    if message is None:
        assert is_cube(read_triangles(tmp_path / "a.ply"))
        return
    with pytest.raises(ShapeError, match=message) as caught:
        read_triangles(tmp_path / "a.ply")
    assert "a.ply" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 5 0 1 2 3", "line 19: '1 5 0 1 2 3' is not a row"),
        ("1 3 0 1 8", "a face with vertex 8, expected 0 .. 7"),
        ("1 3 0 1 -1", "a face with vertex -1"),
        ("1 3 0 1 1.5", "vertex_indices of element 'face' is 1.5, expected a whole number"),
        ("300 3 0 1 2", r"flags of element 'face' is 300, expected a whole number 0 \.\. 255"),
        ("1 3 0 1 x", "line 19: '1 3 0 1 x' is not a row of numbers"),
        ("1 -3 0 1 2", "line 19: '1 -3 0 1 2' is not a row"),
    ],
)
def test_ply_rows_that_do_not_fit(row, message, tmp_path):
    content = ply("ascii", comment=False).decode().splitlines()
    content[18] = row
    (tmp_path / "a.ply").write_text("\n".join(content))
    with pytest.raises(ShapeError, match=message):
        read_triangles(tmp_path / "a.ply")


# --- OFF ---------------------------------------------------------------------------------------------------------


def off(begin, more="", end="", face=""):
    rows = "".join(f"{x:g} {y:g} {z:g}{more}\n" for x, y, z in CUBE)
    return f"{begin}{rows}" + "".join(f"{len(f)} {' '.join(map(str, f))}{face}\n" for f in FACES) + end


@pytest.mark.parametrize(
    "text",
    [
        off("OFF\n8 9 0\n"),
        off("off\n8 9 0\n"),
        off("OFF 8 9 0\n"),
        off("OFF8 9 0\n"),
        off("# a remark\n\nOFF # another\n# one more\n8 9\n"),
        off("COFF\n8 9 0\n", " 255 0 0 255", face=" 3 255 0 0"),
        off("COFF\n8 9 0\n", " 1.0 0.5 0.0 1.0"),
        off("NOFF\n8 9 0\n", " 0 0 1"),
        off("CNOFF\n8 9 0\n", " 0 0 1 255 0 0 255"),
        off("STOFF\n8 9 0\n", " 0.5 0.5"),
        off("stcnoff\n8 9 0\n", " 0 0 1 255 0 0 255 0.5 0.5"),
        off("4OFF\n8 9 0\n", " 1"),
        off("nOFF\n3\n8 9 0\n"),
        off("nOFF 3\n8 9 0\n"),
        off("OFF\n8 9 0\n").replace("\n", "\r\n"),
        off("OFF\n8 9 0\n")[:-1],
    ],
    ids=lambda text: repr(text.partition("0 0 0")[0]),
)
def test_off_of_all_kinds(text, tmp_path):
    (tmp_path / "a.off").write_bytes(text.encode())
    assert is_cube(read_triangles(tmp_path / "a.off"))


def test_the_fourth_coordinate_of_off_divides(tmp_path):
    text = off("4OFF\n8 9 0\n", " 1").replace("0 0 1 1\n", "0 0 2 2\n").replace("1 1 1 1\n", "3 3 3 3\n")
    (tmp_path / "a.off").write_text(text)
    assert is_cube(read_triangles(tmp_path / "a.off"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (off("OFF BINARY\n8 9 0\n"), "is a binary OFF file"),
        (off("nOFF 4\n8 9 0\n"), "4 coordinates a vertex, expected 3"),
        (off("4OFF\n8 9 0\n"), "line 3: a vertex ends before its fourth coordinate"),
        (off("4OFF\n8 9 0\n", " 0"), "not finite"),
        (off("OFF\n8 4000000000 0\n"), r"truncated\?\): 17 of 4000000008 lines"),
        (off("OFFICE\n8 9 0\n"), r"line 1: 'ICE' holds a word|ends before"),
    ],
)
def test_off_faults(text, message, tmp_path):
    (tmp_path / "a.off").write_text(text)
    with pytest.raises(ShapeError, match=message):
        read_triangles(tmp_path / "a.off")


# --- STL ---------------------------------------------------------------------------------------------------------


def fan(faces):
    return [(face[0], face[i], face[i + 1]) for face in faces for i in range(1, len(face) - 1)]


def stl_binary(begin=b"", faces=FACES):
    triangles = fan(faces)
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *CUBE[list(one)].ravel(), 0) for one in triangles)
    return begin.ljust(80, b" ") + struct.pack("<I", len(triangles)) + body


def stl_text(faces=FACES, name="cube", upper=False):
    text = f"solid {name}\n"
    for one in fan(faces):
        corners = "".join(f"   vertex {x:e} {y:e} {z:e}\n" for x, y, z in CUBE[list(one)])
        text += f" facet normal 0 0 0\n  outer loop\n{corners}  endloop\n endfacet\n"
    text += f"endsolid {name}\n"
    return (text.upper() if upper else text).encode()


@pytest.mark.parametrize(
    "content",
    [
        stl_binary(),
        stl_binary(b"solid cube"),
        stl_binary(b"solid cube\nfacet normal 0 0 1"),
        stl_text(),
        stl_text(name="vertex of a facet"),
        stl_text(upper=True),
        stl_text().replace(b"\n", b"\r\n"),
        stl_text()[:-1],
        stl_text(FACES[:4], "one") + stl_text(FACES[4:], "two"),
        b"\n  " + stl_text(),
    ],
    ids=lambda content: repr(content[:24]),
)
def test_stl_of_all_kinds(content, tmp_path):
    (tmp_path / "a.stl").write_bytes(content)
    assert is_cube(read_triangles(tmp_path / "a.stl"))


@pytest.mark.parametrize(
    "content", [stl_binary(), stl_binary(b"solid cube"), stl_text()], ids=["binary", "solid", "text"]
)
def test_a_cut_stl_is_no_whole_one(content, tmp_path):
    for cut in (*range(1, len(content) - 60, 137), len(content) - 50):
        (tmp_path / "a.stl").write_bytes(content[:cut])
        with pytest.raises(
            ShapeError, match=r"a\.stl.*(truncated\?|is no line of an STL|a facet of \d corners)"
        ):
            read_triangles(tmp_path / "a.stl")


def test_an_stl_that_lacks_its_last_line_says_so(tmp_path):
    (tmp_path / "a.stl").write_bytes(stl_text().rpartition(b"endsolid")[0])
    with pytest.raises(
        ShapeError, match=r"ends after 12 triangles without endsolid \(truncated\?\).*add the line"
    ):
        read_triangles(tmp_path / "a.stl")


# --- OBJ ---------------------------------------------------------------------------------------------------------

OBJ_VERTICES = "".join(f"v {x:g} {y:g} {z:g}\n" for x, y, z in CUBE)


def obj(corner="{0}", faces=FACES):
    return "".join("f " + " ".join(corner.format(c + 1, c - 8) for c in face) + "\n" for face in faces)


@pytest.mark.parametrize(
    "text",
    [
        OBJ_VERTICES + obj(),
        OBJ_VERTICES + obj("{1}"),
        OBJ_VERTICES + obj("{1}") + "v 0.5 0.5 0.5\n",  # backwards from the vertices before the face
        OBJ_VERTICES + "vt 0 0\nvn 0 0 1\n" + obj("{0}/1/1"),
        OBJ_VERTICES + "vt 0 0\n" + obj("{0}/1"),
        OBJ_VERTICES + "vn 0 0 1\n" + obj("{1}//-1"),
        OBJ_VERTICES.replace("\n", " 1 0 0\n") + obj(),
        OBJ_VERTICES.replace("\n", " 1.0\n") + obj(),
        f"mtllib no.mtl\no cube\n{OBJ_VERTICES}g a\ns 1\nusemtl a\n{obj(faces=FACES[:5])}usemtl b\n{obj(faces=FACES[5:])}",
        obj() + OBJ_VERTICES,
        OBJ_VERTICES + "l 1 2 3\np 4\nvp 1\n# f 1 2\n" + obj(),
        OBJ_VERTICES + obj().replace("f 1 4", "f 1 \\\n 4"),
        (OBJ_VERTICES + obj()).replace("\n", "\r\n"),
        (OBJ_VERTICES + obj())[:-1],
    ],
)  # fmt: skip
def test_obj_of_all_kinds(text, tmp_path, capfd):
    (tmp_path / "a.obj").write_bytes(text.encode())
    assert is_cube(read_triangles(tmp_path / "a.obj"))
    assert capfd.readouterr() == ("", "")  # a material that is not there is no matter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OBJ_VERTICES + "f 1 2 9\n", "a face with vertex 9, and 8 vertices"),
        (OBJ_VERTICES + "f 1 2 0\n", "line 9: a face with vertex 0"),
        (OBJ_VERTICES + "f 1 2 -9\n", "line 9: a face with vertex -9 after 8 vertices"),
        (OBJ_VERTICES + "f 1 2\n", "line 9: a face of 2 corners"),
        (OBJ_VERTICES + "f 1 2 x\n", "line 9: 'f 1 2 x' is no line"),
        (OBJ_VERTICES.replace("v 1 1 0", "v 1 1\n0", 1) + obj(), "line 3: a vertex ends before"),
        (OBJ_VERTICES + "0.5 1\n" + obj(), "line 9: '0.5 1' is no line of an OBJ"),
        (
            OBJ_VERTICES + "cstype bspline\ndeg 3 3\nsurf 0 1 0 1 1 2 3 4\nend\n",
            "line 9: 'cstype' belongs to a free-form",
        ),
        ("vn 0 0 1\n", "has no points"),
    ],
)
def test_obj_faults(text, message, tmp_path):
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(ShapeError, match=message):
        read_triangles(tmp_path / "a.obj")


def test_the_reader_before_drew_the_same_points(tmp_path):
    """Seeds draw as they did when trimesh read these files: the triangles stand in its order."""
    trimesh = pytest.importorskip("trimesh")
    mixed = (
        OBJ_VERTICES
        + obj(faces=FACES[:2])
        + "usemtl a\n"
        + obj(faces=FACES[2:4])
        + "usemtl b\n"
        + obj(faces=FACES[4:])
    )
    (tmp_path / "a.obj").write_text(mixed)
    (tmp_path / "b.obj").write_text(OBJ_VERTICES + obj() + "f 1 2 3 4 5\n")
    (tmp_path / "a.stl").write_bytes(stl_binary())
    (tmp_path / "b.stl").write_bytes(stl_text())
    (tmp_path / "a.ply").write_bytes(
        re.sub(rb"\n1 (?=[34] )", b"\n", ply("ascii").replace(b"property uchar flags\n", b""))
    )
    for path in sorted(tmp_path.iterdir()):
        theirs, ours = trimesh.load_mesh(path, process=False), read_triangles(path)
        np.testing.assert_array_equal(theirs.vertices[theirs.faces], ours.vertices[ours.triangles], path.name)


# --- glTF --------------------------------------------------------------------------------------------------------


def gltf(*, nodes=None, mode=4, wide=False, uri="data:", faces=None, extra=None):
    """(JSON, buffer) of the cube's triangles."""
    flat = [corner for one in fan(FACES) for corner in one] if faces is None else faces
    indices = np.array(flat, "<u4" if wide else "<u1").tobytes()
    buffer = CUBE.astype("<f4").tobytes() + indices
    scene = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes or [{"mesh": 0}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": mode, "material": 0}]}
        ],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"uri": "none.png"}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": 8,
                "type": "VEC3",
                "min": [0, 0, 0],
                "max": [1, 1, 1],
            },
            {"bufferView": 1, "componentType": 5125 if wide else 5121, "count": len(flat), "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 96},
            {"buffer": 0, "byteOffset": 96, "byteLength": len(indices)},
        ],
        "buffers": [{"byteLength": len(buffer)}],
        **(extra or {}),
    }
    if uri == "data:":
        scene["buffers"][0]["uri"] = (
            "data:application/octet-stream;base64," + base64.b64encode(buffer).decode()
        )
    elif uri:
        scene["buffers"][0]["uri"] = uri
    return scene, buffer


def glb(scene, buffer):
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    buffer += b"\0" * (-len(buffer) % 4)
    chunks = (
        struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


@pytest.mark.parametrize("form", ["glb", "data", "beside", "beside a space"])
def test_gltf_in_all_its_forms(form, tmp_path, capfd):
    """Its picture is not there, which is no matter."""
    if form == "glb":
        path = tmp_path / "a.glb"
        path.write_bytes(glb(*gltf(uri=None)))
    else:
        path = tmp_path / "a.gltf"
        name = {"data": "data:", "beside": "a.bin", "beside a space": "my%20cube.bin"}[form]
        scene, buffer = gltf(uri=name, wide=True)
        path.write_text(json.dumps(scene))
        if form != "data":
            (tmp_path / name.replace("%20", " ")).write_bytes(buffer)
    assert is_cube(read_triangles(path))
    assert capfd.readouterr() == ("", "")


def test_gltf_nodes_place_their_meshes(tmp_path):
    turn = [0, 0, 2**-0.5, 2**-0.5]  # a quarter around z: x becomes y
    nodes = [
        {"children": [1, 2], "translation": [10, 0, 0]},
        {"mesh": 0, "scale": [2, 2, 2], "rotation": turn},
        {"children": [3], "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 5, 0, 1]},
        {"mesh": 0},
        {"mesh": 0, "translation": [99, 99, 99]},  # in no scene
    ]
    (tmp_path / "a.glb").write_bytes(glb(*gltf(nodes=nodes, uri=None)))
    found = read_triangles(tmp_path / "a.glb")
    assert len(found.triangles) == 24
    area, volume, low, high = surface(found)
    assert (area, volume) == (24 + 6, 8 + 1)
    np.testing.assert_allclose([low, high], [[8, 0, 0], [11, 6, 2]], atol=1e-6)


def test_gltf_strips(tmp_path):
    strip = [0, 4, 3, 7, 2, 6, 1, 5, 0, 4]
    (tmp_path / "a.glb").write_bytes(glb(*gltf(mode=5, faces=strip, uri=None)))
    assert surface(read_triangles(tmp_path / "a.glb"))[0] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uri": "none.bin"}, r"needs .*none\.bin, which is not there; keep the two together"),
        ({"uri": "../../etc/passwd"}, "a file outside its folder; it is not opened"),
        ({"uri": "short.bin"}, r"buffer 0 has 3 of 132 bytes \(truncated"),
        ({"uri": "data:text/plain,abc"}, "data that are not in base64"),
        ({"mode": 6}, "holds a fan of triangles"),
        ({"extra": {"extensionsRequired": ["KHR_draco_mesh_compression"]}}, "needs the extension KHR_draco"),
        ({"extra": {"asset": {"version": "1.0"}}}, "is glTF 1.0, expected 2"),
        ({"extra": {"bufferViews": []}}, "is no whole glTF file"),
        ({"faces": [0, 1, 2, 3]}, "4 corners of triangles"),
        ({"faces": [0, 1, 200]}, "a face with vertex 200"),
        ({"nodes": [{"mesh": 7}]}, "a node shows mesh 7"),
        ({"nodes": [{"children": [9]}]}, "a child that is not there"),
    ],
    ids=str,
)
def test_gltf_faults(change, message, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/short.bin").write_bytes(b"abc")
    scene, _ = gltf(**change)
    (tmp_path / "folder/a.gltf").write_text(json.dumps(scene))
    with pytest.raises(ShapeError, match=message) as caught:
        read_triangles(tmp_path / "folder/a.gltf")
    assert "a.gltf" in str(caught.value)


def test_gltf_counts_are_held_against_the_file(tmp_path):
    for place, key, value in (("accessors", "count", 4_000_000_000), ("bufferViews", "byteLength", 1 << 40)):
        scene, buffer = gltf(uri=None)
        scene[place][0][key] = value
        (tmp_path / "a.glb").write_bytes(glb(scene, buffer))
        with pytest.raises(ShapeError, match=r"truncated\?"):
            read_triangles(tmp_path / "a.glb")
    whole = glb(*gltf(uri=None))
    (tmp_path / "a.glb").write_bytes(whole + b"more")
    assert is_cube(read_triangles(tmp_path / "a.glb"))
    for cut in range(4, len(whole), 61):
        (tmp_path / "a.glb").write_bytes(whole[:cut])
        with pytest.raises(ShapeError, match=r"a\.glb"):
            read_triangles(tmp_path / "a.glb")


# --- any of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", mesh.SUFFIXES)
def test_a_mesh_that_needs_too_much_memory_is_a_sentence(suffix, tmp_path, monkeypatch):
    def hungry(path):
        raise MemoryError

    (tmp_path / f"a{suffix}").write_bytes(b"x")
    for name in ("_read_ply", "_read_stl", "_read_obj", "_read_gltf", "read_off"):
        monkeypatch.setattr(mesh, name, hungry)
    with pytest.raises(ShapeError, match=rf"a\{suffix} needs more memory"):
        read_triangles(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("seed", range(2))
def test_damage_is_read_or_said(seed, tmp_path):
    """A few bytes changed, lost or added, anywhere: a mesh, or a sentence that names the file."""
    random = np.random.default_rng(seed)
    whole = {
        "a.ply": ply("ascii", lists=True), "b.ply": ply("binary_big_endian", first="face"), "a.stl": stl_binary(),
        "b.stl": stl_text(), "a.off": off("COFF\n8 9 0\n", " 1 0 0 1").encode(), "a.obj": (OBJ_VERTICES + obj()).encode(),
        "a.glb": glb(*gltf(uri=None)), "a.gltf": json.dumps(gltf()[0]).encode(),
    }  # fmt: skip
    for i in range(160):
        name = list(whole)[i % len(whole)]
        content = bytearray(whole[name])
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(len(content)))
            content[at : at + int(random.integers(2))] = random.bytes(int(random.integers(3)))
        (tmp_path / name).write_bytes(content)
        said = ""
        try:
            found = read_triangles(tmp_path / name)
        except ShapeError as error:
            said = str(error)
        assert name in said or np.isfinite(found.vertices).all()


def test_nan_that_signals_is_not_finite(tmp_path):
    """Turning it into float64 would warn."""
    corners = np.arange(9, dtype="<f4")
    corners.view("<u4")[4] = 0x7F800001
    path = tmp_path / "a.stl"
    path.write_bytes(bytes(80) + struct.pack("<I", 1) + bytes(12) + corners.tobytes() + bytes(2))
    with pytest.raises(ShapeError, match="not finite"):
        read_points(path, 4)
