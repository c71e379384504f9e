"""glTF 2, as one file (.glb) or several (.gltf): the triangles of its scene, every mesh where its node puts it.

trimesh reads the accessors and the tree of nodes. What it would leave out or fill with zeros is refused before: buffers that
are missing or short, compressed meshes, sparse or integer coordinates, fans. Materials and pictures are not opened.
"""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError
from dropfold.data_scripts.work.notes import say

MAGIC, JSON, BINARY = b"glTF", b"JSON", b"BIN\0"
POINTS, LINES, LINE_LOOP, LINE_STRIP, TRIANGLES, STRIP = range(6)
WIDTH = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}  # bytes of a component
FLOAT = 5126
COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MOST_NODES = 1_000_000


def read_triangles(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] in the scene's coordinates and triangles [F, 3]; a `ShapeError` names the file and what is wrong."""
    import trimesh

    content = path.read_bytes()
    binary = content[:4] == MAGIC
    if binary and len(content) > (length := max(int.from_bytes(content[8:12], "little"), 20)):
        say(f"{path}: what follows the {length} bytes that its header counts is left")
        content = content[:length]
    text, chunk = _chunks(path, content) if binary else (content, None)
    try:
        scene = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"{path} is no glTF file: its JSON cannot be read ({error}).") from None
    try:
        _check(path, scene, chunk)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, ShapeError):
            raise
        raise ShapeError(f"{path} is no whole glTF file ({type(error).__name__}: {error}).") from None
    log = logging.getLogger("trimesh")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it prints a traceback for each picture that is not there
    try:
        loaded: Any = trimesh.load_scene(
            io.BytesIO(content),
            file_type="glb" if binary else "gltf",
            resolver=_resolver(path),
            skip_materials=True,
        )
        return _place(loaded)
    finally:
        log.setLevel(level)


def _resolver(path: Path) -> Any:
    """Opens buffers beside the file, whose names may hold spaces as %20."""
    from trimesh.resolvers import FilePathResolver

    class Beside(FilePathResolver):
        def get(self, name: str) -> bytes:
            return (path.parent / unquote(name)).read_bytes()

    return Beside(str(path.parent))


def _place(scene: Any) -> tuple[np.ndarray, np.ndarray]:
    """All meshes of a scene, each as often as nodes show it; of a scene without any, its points."""
    import trimesh

    vertices, triangles, clouds, count = (
        [np.empty((0, 3))],
        [np.empty((0, 3), np.int64)],
        [np.empty((0, 3))],
        0,
    )
    for node in sorted(scene.graph.nodes_geometry):
        matrix, name = scene.graph[node]
        shape = scene.geometry[name]
        placed = np.asarray(shape.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        if isinstance(shape, trimesh.Trimesh):
            triangles.append(np.asarray(shape.faces, np.int64) + count)
            vertices.append(placed)
            count += len(placed)
        elif isinstance(shape, trimesh.PointCloud):
            clouds.append(placed)
    if count == 0:
        return np.concatenate(clouds), triangles[0]
    return np.concatenate(vertices), np.concatenate(triangles)


def _chunks(path: Path, content: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a .glb."""
    if len(content) < 20:
        raise ShapeError(f"{path} ends in its header (truncated?).")
    version, length = (int.from_bytes(content[i : i + 4], "little") for i in (4, 8))
    if version != 2:
        raise ShapeError(f"{path} is glTF {version}, expected 2.")
    if length > len(content):
        raise ShapeError(f"{path} ends after {len(content)} of {length} bytes (truncated?).")
    text, chunk, at = b"", None, 12
    while at + 8 <= length:
        size, kind = int.from_bytes(content[at : at + 4], "little"), content[at + 4 : at + 8]
        at += 8
        if at + size > len(content):
            raise ShapeError(f"{path} ends inside a chunk of {size} bytes (truncated?).")
        if kind == JSON and not text:
            text = content[at : at + size]
        elif kind == BINARY and chunk is None:
            chunk = content[at : at + size]
        at += size
    return text, chunk


def _check(path: Path, scene: dict[str, Any], chunk: bytes | None) -> None:
    """Refuse what is missing, and what trimesh would not read as it is meant."""
    if str(scene["asset"].get("version", "2.0")).split(".")[0] != "2":
        raise ShapeError(f"{path} is glTF {scene['asset']['version']}, expected 2.")
    unknown = [
        name
        for name in scene.get("extensionsRequired", [])
        if "compression" in name or name == "KHR_mesh_quantization"
    ]
    if unknown:
        raise ShapeError(
            f"{path} needs the extension {unknown[0]}, which is not read; export the mesh without compression."
        )
    sizes = [_buffer_size(path, buffer, i, chunk) for i, buffer in enumerate(scene.get("buffers", []))]
    views = scene.get("bufferViews", [])
    for i, view in enumerate(views):
        end = view.get("byteOffset", 0) + view["byteLength"]
        if min(view.get("byteOffset", 0), view["byteLength"]) < 0 or end > sizes[view["buffer"]]:
            raise ShapeError(
                f"{path}: buffer view {i} ends at byte {end} of {sizes[view['buffer']]} (truncated?)."
            )
    accessors = scene.get("accessors", [])
    for i, one in enumerate(accessors):
        count, item = one["count"], WIDTH[one["componentType"]] * COMPONENTS[one["type"]]
        room = views[one["bufferView"]]["byteLength"] if "bufferView" in one else sum(sizes)
        if count < 0 or count * item > room - one.get("byteOffset", 0):
            raise ShapeError(f"{path}: accessor {i} counts {count} items, and has {room} bytes (truncated?).")
    nodes = scene.get("nodes", [])
    if len(nodes) > MOST_NODES:
        raise ShapeError(f"{path} has {len(nodes)} nodes, and {MOST_NODES} is the most.")
    for mesh in scene.get("meshes", []):
        for part in mesh["primitives"]:
            _check_primitive(path, part, accessors)
    for node in nodes:
        if "camera" in node and ("mesh" in node or node.get("children")):
            raise ShapeError(f"{path}: a node holds a camera and a mesh; put them into nodes of their own.")
        if "mesh" in node and not 0 <= node["mesh"] < len(scene.get("meshes", [])):
            raise ShapeError(f"{path}: a node shows mesh {node['mesh']}, which is not there.")
        if any(not 0 <= child < len(nodes) for child in node.get("children", [])):
            raise ShapeError(f"{path}: a node has a child that is not there.")


def _check_primitive(path: Path, part: dict[str, Any], accessors: list[dict[str, Any]]) -> None:
    mode = part.get("mode", TRIANGLES)
    if mode in (LINES, LINE_LOOP, LINE_STRIP):  # no surface
        return
    if mode not in (POINTS, TRIANGLES, STRIP):
        raise ShapeError(f"{path} holds a fan of triangles, which is not read; export it as triangles.")
    if any("compression" in name for name in part.get("extensions", {})):
        raise ShapeError(f"{path} holds a compressed mesh, which is not read; export it without compression.")
    named = [part["attributes"]["POSITION"], *([part["indices"]] if "indices" in part else [])]
    position, *indices = (accessors[i] for i in named)
    if position["componentType"] != FLOAT or position["type"] != "VEC3":
        raise ShapeError(f"{path} has coordinates that are no float32 x y z; export it without quantization.")
    if any("sparse" in one or "bufferView" not in one for one in (position, *indices)):
        raise ShapeError(
            f"{path} has sparse coordinates or indices, which are not read; export it without them."
        )
    corners = indices[0]["count"] if indices else position["count"]
    if mode == TRIANGLES and corners % 3:
        raise ShapeError(f"{path} has {corners} corners of triangles, which is no multiple of 3.")


def _buffer_size(path: Path, buffer: dict[str, Any], number: int, chunk: bytes | None) -> int:
    """Bytes of a buffer; an error if it is not there, short, or outside the file's folder."""
    uri, stated = buffer.get("uri"), buffer["byteLength"]
    if uri is None:
        if number or chunk is None:
            raise ShapeError(f"{path}: buffer {number} has no data (truncated?).")
        size = len(chunk)
    elif uri.startswith("data:"):
        if ";base64," not in uri[:200]:
            raise ShapeError(f"{path}: buffer {number} holds data that are not in base64, which is not read.")
        size = len(uri.partition(",")[2]) * 3 // 4
    else:
        beside = path.parent / unquote(uri)
        if not beside.resolve().is_relative_to(path.parent.resolve()):
            raise ShapeError(f"{path} names {uri!r}, a file outside its folder; it is not opened.")
        if not beside.is_file():
            raise ShapeError(f"{path} needs {beside}, which is not there; keep the two together.")
        size = beside.stat().st_size
    if size < stated:
        raise ShapeError(f"{path}: buffer {number} has {size} of {stated} bytes (truncated?).")
    return int(stated)
