"""Meshes in the ways that programs write them: PLY, OFF, OBJ, STL, glTF."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers import mesh
from dropfold.data_scripts.readers.shapes import read_points
from tests.fuzz.case import (
    STEP,
    Arrays,
    Format,
    Random,
    as_triangles,
    chance,
    draw_columns,
    draw_mesh,
    draw_points,
    in_order,
    pick,
    write_number,
)
from tests.fuzz.mutate import damage_json
from tests.fuzz.tables import as_scene


def as_mesh(path: Path) -> Arrays:
    vertices, triangles, _ = mesh.read_triangles(path)
    return {"triangles": in_order(vertices[triangles])}


def as_samples(path: Path) -> Arrays:
    """What a conversion takes of a mesh; where the points lie is chance."""
    read_points(path, 16, notes=[])
    return {}


# --- PLY ---------------------------------------------------------------------------------------------------------

ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
KINDS = {"char": "i1", "uchar": "u1", "int8": "i1", "uint8": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
         "int32": "i4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8"}  # fmt: skip
Column = tuple[str, str, str, list]  # name, type, type of the length of lists or "", values


def make_ply(random: Random, path: Path) -> Arrays:
    with_faces = chance(random)
    vertices, faces = draw_mesh(random)
    found = draw_columns(random, len(vertices), chance(random), chance(random))
    vertices = found["points"]
    if with_faces:
        found["triangles"] = as_triangles(vertices, faces)
    kind = pick(random, "float", "float32", "double", "float64")
    columns: list[Column] = [(axis, kind, "", vertices[:, i].tolist()) for i, axis in enumerate("xyz")]
    if len(found["colour"]):
        names = pick(random, ("red", "green", "blue"), ("r", "g", "b"))
        columns += [
            (name, pick(random, "uchar", "uint8"), "", found["colour"][:, i].tolist())
            for i, name in enumerate(names)
        ]
    if len(found["label"]):
        name = pick(random, "label", "class", "scalar_label", "classification")
        columns.append(
            (name, pick(random, "uchar", "int", "ushort", "float", "double"), "", found["label"].tolist())
        )
    if chance(random, 0.3):
        columns.append(
            ("quality", pick(random, "float", "short"), "", random.integers(0, 99, len(vertices)).tolist())
        )
    if chance(random, 0.2):
        columns.append(
            ("uv", "float", "uchar", [[0.5] * int(k) for k in random.integers(0, 3, len(vertices))])
        )
    columns = [columns[i] for i in random.permutation(len(columns))]
    elements = [("vertex", columns)]
    if with_faces:
        of_faces: list[Column] = [
            (pick(random, "vertex_indices", "vertex_index"), pick(random, "int", "uint", "int32", "short"),
             pick(random, "uchar", "uint8", "int", "ushort"), faces)
        ]  # fmt: skip
        if chance(random, 0.3):
            of_faces.insert(int(random.integers(2)), ("flags", "uchar", "", [0] * len(faces)))
        if chance(random, 0.3):
            of_faces.insert(
                int(random.integers(2)), ("texcoord", "float", "uchar", [[0.25] * 2 * len(f) for f in faces])
            )
        elements.insert(int(random.integers(2)), ("face", of_faces))
    if chance(random, 0.2):
        edges: list[Column] = [("vertex1", "int", "", [0, 1]), ("vertex2", "int", "", [1, 2])]
        elements.insert(int(random.integers(len(elements) + 1)), ("edge", edges))
    path.write_bytes(_ply(random, elements))
    return found


def _ply(random: Random, elements: list[tuple[str, list[Column]]]) -> bytes:
    order = pick(random, *ORDERS)
    end = pick(random, "\n", "\n", "\r\n")
    lines = ["ply", f"format {order} 1.0"]
    lines += [pick(random, "comment made by hand", "obj_info num 3", "comment")] if chance(random) else []
    for name, columns in elements:
        lines.append(f"element {name} {len(columns[0][3])}")
        lines += [
            f"property {f'list {count} ' if count else ''}{kind} {name}" for name, kind, count, _ in columns
        ]
    head = end.join([*lines, "end_header", ""]).encode()
    rows = [(columns, row) for _, columns in elements for row in zip(*(column[3] for column in columns))]
    if order == "ascii":
        text = end.join(" ".join(_words(random, columns, row)) for columns, row in rows)
        return head + (text + (end if chance(random, 0.8) else "")).encode()
    return head + b"".join(_packed(ORDERS[order], columns, row) for columns, row in rows)


def _words(random: Random, columns: list[Column], row: tuple) -> list[str]:
    words = []
    for (_, kind, count, _), value in zip(columns, row):
        values = value if count else [value]
        words += [str(len(values))] if count else []
        words += [write_number(random, one) if KINDS[kind][0] == "f" else str(one) for one in values]
    return words


def _packed(order: str, columns: list[Column], row: tuple) -> bytes:
    parts = []
    for (_, kind, count, _), value in zip(columns, row):
        parts += [np.array(len(value), order + KINDS[count])] if count else []
        parts.append(np.array(value, order + KINDS[kind]))
    return b"".join(part.tobytes() for part in parts)


# --- text formats ------------------------------------------------------------------------------------------------


def make_off(random: Random, path: Path) -> Arrays:
    vertices, faces = draw_mesh(random)
    word = pick(random, "OFF", "OFF", "off", "COFF", "NOFF", "4OFF")
    counts = f"{len(vertices)} {len(faces)}{pick(random, ' 0', ' 0', '')}"
    lines = (
        [word + pick(random, "", " ") + counts] if word == "OFF" and chance(random, 0.4) else [word, counts]
    )
    tail = {"COFF": " 255 0 0 255", "NOFF": " 0 0 1", "4OFF": " 1"}.get(word, "")
    lines += [" ".join(write_number(random, one) for one in vertex) + tail for vertex in vertices.tolist()]
    after = pick(random, "", "", " 255 0 0", " 0.5 0.5 0.5 1")
    lines += [f"{len(face)} {' '.join(map(str, face))}{after}" for face in faces]
    path.write_bytes(_join(random, lines, "#", 1))
    return {"triangles": as_triangles(vertices, faces)}


def _join(random: Random, lines: list[str], comment: str, first: int) -> bytes:
    """Lines as a file, perhaps with comments and empty lines, with either line break, with or without the last."""
    for _ in range(int(random.integers(3))):
        lines.insert(int(random.integers(first, len(lines) + 1)), pick(random, "", f"{comment} a note", "  "))
    end = pick(random, "\n", "\n", "\r\n")
    return (end.join(lines) + (end if chance(random, 0.8) else "")).encode()


def make_obj(random: Random, path: Path) -> Arrays:
    vertices, faces = draw_mesh(random)
    n = len(vertices)
    colour = pick(random, "", " 0.5 0.25 1")
    rows = [
        f"v {' '.join(write_number(random, one) for one in vertex)}{colour}" for vertex in vertices.tolist()
    ]
    with_texture, with_normal = chance(random, 0.3), chance(random, 0.3)
    rows += ["vt 0.5 0.5"] * with_texture + ["vn 0 0 1"] * with_normal
    for face in faces:
        corners = [str(i + 1 if chance(random) else i - n) for i in face]
        if with_normal:
            corners = [f"{one}/{'1' * with_texture}/1" for one in corners]
        elif with_texture:
            corners = [f"{one}/1" for one in corners]
        rows += (
            [pick(random, "g part", "o thing", "usemtl red", "s off", "s 1")] if chance(random, 0.2) else []
        )
        joint = pick(random, " ", " ", "  ")
        rows.append("f " + joint.join(corners) if chance(random, 0.9) else "f \\\n" + " ".join(corners))
    rows.insert(0, pick(random, "# made by hand", "mtllib a.mtl", "o thing"))
    path.write_bytes(_join(random, rows, "#", 0))
    return {"triangles": as_triangles(vertices, faces)}


def make_stl(random: Random, path: Path) -> Arrays:
    triangles = draw_points(random, 3 * int(random.integers(2, 12))).reshape(-1, 3, 3)
    if chance(random):
        head = pick(random, b"binary", b"solid of another program", b"\0").ljust(
            80, pick(random, b"\0", b" ")
        )
        facets = np.zeros(len(triangles), [("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")])
        facets["c"], facets["a"] = triangles, int(random.integers(65536))
        path.write_bytes(head + struct.pack("<I", len(facets)) + facets.tobytes())
        return {"triangles": in_order(triangles)}
    upper, indent = chance(random, 0.2), pick(random, "", "  ", "\t")
    lines = ["solid part"]
    for i, triangle in enumerate(triangles.tolist()):
        if i == 1 and chance(random, 0.2):
            lines += ["endsolid part", "solid other"]
        lines += [
            f"{indent}facet normal 0 0 {pick(random, '1', '-1', '0', '0.000000e+00')}",
            f"{indent}outer loop",
        ]
        lines += [
            f"{indent}vertex {' '.join(write_number(random, one) for one in corner)}" for corner in triangle
        ]
        lines += [f"{indent}endloop", f"{indent}endfacet"]
    lines.append(pick(random, "endsolid part", "endsolid"))
    end = pick(random, "\n", "\n", "\r\n")
    text = end.join(lines) + (end if chance(random, 0.8) else "")
    path.write_bytes((text.upper() if upper else text).encode())
    return {"triangles": in_order(triangles)}


# --- glTF --------------------------------------------------------------------------------------------------------


def make_gltf(random: Random, path: Path) -> Arrays:
    """One or two nodes that show a mesh of triangles, moved by whole steps."""
    n = int(random.integers(6, 20))
    vertices = draw_points(random, n)
    faces = [random.choice(n, 3, replace=False).tolist() for _ in range(random.integers(2, 12))]
    indexed = chance(random, 0.8)
    if not indexed:
        vertices, faces = (
            vertices[np.array(faces)].reshape(-1, 3),
            np.arange(3 * len(faces)).reshape(-1, 3).tolist(),
        )
    kind, code = pick(random, ("<u1", 5121), ("<u2", 5123), ("<u4", 5125))
    places = vertices.astype("<f4").tobytes()
    indices = np.array(faces, kind).tobytes()
    data = places + indices
    data += b"\0" * (-len(data) % 4)
    low, high = vertices.min(0).tolist(), vertices.max(0).tolist()
    accessors = [
        {
            "bufferView": 0,
            "componentType": 5126,
            "count": len(vertices),
            "type": "VEC3",
            "min": low,
            "max": high,
        }
    ]
    views = [{"buffer": 0, "byteOffset": 0, "byteLength": len(places)}]
    part = {"attributes": {"POSITION": 0}, **({"mode": 4} if chance(random) else {})}
    if indexed:
        views.append({"buffer": 0, "byteOffset": len(places), "byteLength": len(indices)})
        accessors.append({"bufferView": 1, "componentType": code, "count": 3 * len(faces), "type": "SCALAR"})
        part["indices"] = 1
    if chance(random, 0.3):
        part["material"] = 0
    nodes, moves = [], []
    for i in range(int(random.integers(1, 3))):
        move = (random.integers(-STEP, STEP, 3) / STEP).tolist()
        nodes.append(
            {"mesh": 0, "translation": move, "name": f"node {i}"} if chance(random, 0.8) else {"mesh": 0}
        )
        moves.append(nodes[-1].get("translation", [0, 0, 0]))
    scene = {
        "asset": {"version": "2.0", "generator": "by hand"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "meshes": [{"primitives": [part]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(data)}],
        **({"materials": [{"name": "red"}]} if "material" in part else {}),
    }
    if path.suffix == ".glb":
        path.write_bytes(join_glb(json.dumps(scene).encode(), data))
    elif chance(random):
        scene["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
        path.write_text(json.dumps(scene, indent=pick(random, None, 2)))
    else:
        path.with_suffix(".bin").write_bytes(data)
        scene["buffers"][0]["uri"] = path.with_suffix(".bin").name
        path.write_text(json.dumps(scene))
    return {"triangles": in_order(np.concatenate([(vertices + move)[np.array(faces)] for move in moves]))}


def join_glb(text: bytes, data: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def damage_gltf(random: Random, path: Path) -> bool:
    content = path.read_bytes()
    if path.suffix == ".gltf":
        path.write_bytes(damage_json(random, content))
        return False
    (size,) = struct.unpack_from("<I", content, 12)
    path.write_bytes(join_glb(damage_json(random, content[20 : 20 + size]), content[28 + size :]))
    return False


FORMATS = [
    Format("ply", ".ply", make_ply, (as_scene, as_mesh, as_samples), counted=True),
    Format("off", ".off", make_off, (as_mesh, as_samples), counted=True),
    Format("obj", ".obj", make_obj, (as_mesh, as_samples)),
    Format("stl", ".stl", make_stl, (as_mesh, as_samples), counted=True),
    Format("glb", ".glb", make_gltf, (as_mesh, as_samples), counted=True, damage=damage_gltf),
    Format("gltf", ".gltf", make_gltf, (as_mesh, as_samples), damage=damage_gltf),
]  # fmt: skip
