"""Meshes from files: vertices and triangles of OFF, OBJ, STL, PLY and glTF, and points on their surface.

The text formats, STL and PLY are read here, line by line or by NumPy: trimesh takes what is left of a file that was cut for
the whole, counts OBJ's negative indices from the end of the file, and reads textures, which no cloud needs. glTF is read by
trimesh, after `gltf` has checked it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError
from dropfold.data_scripts.work.notes import say

GLTF = (".glb", ".gltf")
SUFFIXES = (".off", ".obj", ".stl", ".ply", *GLTF)
FACE_LISTS = ("vertex_indices", "vertex_index")  # how programs call them in PLY


class Mesh(NamedTuple):
    """vertices [V, 3] float64; triangles [F, 3] int64, none of a cloud; normals [V, 3] of a cloud that has them."""

    vertices: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray | None = None


def read_mesh(path: Path, points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """Points and normals: `points` on the surface of a mesh, or the vertices of a file without faces."""
    vertices, triangles, normals = read_triangles(path)
    if len(triangles) == 0:
        return vertices, normals
    return sample_surface(path, vertices, triangles, points, random)


def read_triangles(path: Path) -> Mesh:
    """The mesh of a file; a `ShapeError` names it, the line where there is one, and what is wrong. A cloud may hold what is
    not finite."""
    read: dict[str, Callable[[Path], Mesh]] = {
        ".off": lambda path: Mesh(*read_off(path)),
        ".obj": _read_obj,
        ".stl": _read_stl,
        ".ply": _read_ply,
        ".glb": _read_gltf,
        ".gltf": _read_gltf,
    }
    try:
        with np.errstate(invalid="ignore"):  # of NaN that signals, which is found with all that is not finite
            mesh = read[path.suffix.lower()](path)
    except ShapeError:
        raise
    except OSError as error:
        raise ShapeError(f"{path} cannot be read ({error.strerror or error}).") from None
    except MemoryError:
        raise ShapeError(f"{path} needs more memory than there is.") from None
    except Exception as error:  # whatever a library or NumPy makes of a broken file
        raise ShapeError(f"{path} is not a readable mesh ({type(error).__name__}: {error}).") from None
    vertices, triangles, _ = mesh
    if len(vertices) == 0:
        raise ShapeError(f"{path} has no points.")
    if len(triangles) and not 0 <= triangles.min() <= triangles.max() < len(vertices):
        wrong = triangles.max() if triangles.max() >= len(vertices) else triangles.min()
        raise ShapeError(f"{path} has a face with vertex {wrong}, expected 0 .. {len(vertices) - 1}.")
    if len(triangles) and not (whole := np.isfinite(vertices).all(1)).all():
        raise ShapeError(
            f"{path} holds coordinates that are not finite, the first of vertex {np.argmin(whole)}."
        )
    return mesh


def sample_surface(
    path: Path, vertices: np.ndarray, faces: np.ndarray, points: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals, uniform over the area of the triangles."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    with np.errstate(over="ignore", invalid="ignore"):  # of coordinates beyond 1e150; said below
        cross = np.cross(b - a, c - a)
        area = np.linalg.norm(cross, axis=1)
        whole = area.sum()
    if not whole > 0 or not np.isfinite(whole):
        raise ShapeError(f"{path} has no surface: the area of its {len(faces)} faces is {whole}.")
    chosen = random.choice(len(faces), points, p=area / whole)
    u, v = random.random((2, points, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    found = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return found, cross[chosen] / area[chosen, None]


def triangulate(length: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Triangles [F, 3] of faces with `length` corners each, all of which stand one after the other in `corners`.

    The triangles first, then both halves of the quads, then fans of larger faces; faces of fewer corners have no area.
    """
    first = np.cumsum(length) - length
    three, four = first[length == 3], first[length == 4]
    pieces = [corners[three[:, None] + [0, 1, 2]]]
    pieces += [corners[four[:, None] + half] for half in ([0, 1, 2], [2, 3, 0])]
    large = np.flatnonzero(length > 4)
    fans = length[large] - 2
    begin = np.repeat(first[large], fans)
    step = np.arange(fans.sum()) - np.repeat(np.cumsum(fans) - fans, fans)
    pieces.append(corners[np.stack([begin, begin + step + 1, begin + step + 2], 1)])
    return np.concatenate(pieces).astype(np.int64)


# --- OFF ---------------------------------------------------------------------------------------------------------


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [F, 3] of an OFF file; also of ModelNet's `OFF490 518 0`, with no line break.

    A line holds one vertex or one face; what follows in it (colours, normals, texture) is left. Larger faces become fans of
    triangles. The first word may say what follows: COFF, NOFF, STOFF, 4OFF (a fourth coordinate divides the others).
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    split = ((number, line.partition("#")[0].split()) for number, line in enumerate(text.split("\n"), 1))
    lines = [(number, words) for number, words in split if words]
    match = re.match(r"(ST)?(C)?(N)?(4)?(n)?OFF", lines[0][1][0], re.IGNORECASE) if lines else None
    if match is None:
        raise ShapeError(f"{path} does not begin with OFF.")
    first, header = lines[0]
    counts, start = [word for word in (header[0][match.end() :], *header[1:]) if word], 1
    if counts[:1] in (["BINARY"], ["binary"]):
        raise ShapeError(f"{path} is a binary OFF file, which is not read; write it as text, or as a PLY.")
    if not counts and len(lines) > 1:
        (first, counts), start = lines[1], 2
    if match[5] == "n" or (
        match[3] == "n" and match[0].endswith("OFF")
    ):  # nOFF: counts begin with the dimension
        if counts[:1] != ["3"]:
            raise ShapeError(
                f"{path}, line {first}: {' '.join(counts[:1])} coordinates a vertex, expected 3."
            )
        counts = counts[1:]
        if not counts and len(lines) > start:
            (first, counts), start = lines[start], start + 1
    numbers_of_vertex = 4 if match[4] else 3
    cut = "ends before its last vertex or face (truncated?)"
    if len(counts) < 2:
        raise ShapeError(f"{path}, line {first}: {cut}.")
    line, words = first, counts  # the place that a fault names
    numbers: list[tuple[float, float, float]] = []
    triangles: list[tuple[int, int, int]] = []
    try:
        vertices, faces = int(counts[0]), int(counts[1])
        if vertices < 0 or faces < 0:
            raise ShapeError(
                f"{path}, line {line}: {vertices} vertices and {faces} faces, expected 0 or more."
            )
        rows = lines[start : start + vertices + faces]
        for line, words in rows[:vertices]:
            if len(words) < numbers_of_vertex:
                which = "third" if numbers_of_vertex == 3 else "fourth"
                raise ShapeError(f"{path}, line {line}: a vertex ends before its {which} coordinate.")
            if numbers_of_vertex == 4:
                x, y, z, w = map(float, words[:4])
                numbers.append((x / w, y / w, z / w) if w else (math.inf, math.inf, math.inf))
            else:
                numbers.append((float(words[0]), float(words[1]), float(words[2])))
        for line, words in rows[vertices:]:
            count = int(words[0])
            corners = [int(word) for word in words[1 : 1 + max(count, 0)]]
            if len(corners) != count:
                raise ShapeError(f"{path}, line {line}: a face ends before its {count} corners.")
            if corners and not 0 <= min(corners) <= max(corners) < vertices:
                wrong = next(corner for corner in corners if not 0 <= corner < vertices)
                raise ShapeError(
                    f"{path}, line {line}: a face with vertex {wrong}, expected 0 .. {vertices - 1}."
                )
            triangles += [(corners[0], corners[i], corners[i + 1]) for i in range(1, count - 1)]
    except ShapeError:
        raise
    except ValueError:
        raise ShapeError(
            f"{path}, line {line}: {' '.join(words)[:60]!r} holds a word where a number belongs."
        ) from None
    if len(rows) < vertices + faces:
        raise ShapeError(f"{path}, line {lines[-1][0]}: {cut}: {len(rows)} of {vertices + faces} lines.")
    if len(lines) > start + vertices + faces:
        line, words = lines[start + vertices + faces]
        say(
            f"{path}, line {line}: what follows the {vertices} vertices and {faces} faces that it counts is left"
        )
    return (
        np.array(numbers, dtype=np.float64).reshape(-1, 3),
        np.array(triangles, dtype=np.int64).reshape(-1, 3),
    )


# --- PLY ---------------------------------------------------------------------------------------------------------


def _read_ply(path: Path) -> Mesh:
    from dropfold.data_scripts.readers import ply

    elements = ply.read_elements(path, ("vertex", "face", "tristrips"))
    columns = {name.lower(): values for name, values in elements["vertex"].items()}
    missing = [name for name in "xyz" if name not in columns or isinstance(columns[name], ply.Lists)]
    if missing:
        raise ShapeError(f"{path} has no column {missing[0]}; it has {', '.join(columns)}.")
    vertices = np.stack([columns[name] for name in "xyz"], axis=1).astype(np.float64)
    pieces = [np.empty((0, 3), np.int64)]
    if "face" in elements:
        faces = elements["face"]
        lists = {name: one for name, one in faces.items() if isinstance(one, ply.Lists)}
        name = next((name for name in FACE_LISTS if name in lists), None)
        if name is None and len(lists) == 1:
            name = next(iter(lists))
        if name is not None:
            length, corners = lists[name]
            _check_corners(path, corners, len(vertices))
            pieces.append(triangulate(length, corners.astype(np.int64)))
        elif any(len(one) for one in faces.values()):
            raise ShapeError(f"{path}: its faces have no list vertex_indices; they have {', '.join(faces)}.")
    for one in elements.get("tristrips", {}).values():
        if isinstance(one, ply.Lists):
            strips = _strip_triangles(one.length, one.values.astype(np.int64))
            _check_corners(path, strips, len(vertices))
            pieces.append(strips)
    triangles = np.concatenate(pieces)
    normals = [columns[name] for name in ("nx", "ny", "nz") if name in columns]
    if len(triangles) or len(normals) < 3:
        return Mesh(vertices, triangles)
    return Mesh(vertices, triangles, np.stack(normals, 1))


def _check_corners(path: Path, corners: np.ndarray, vertices: int) -> None:
    if corners.dtype.kind == "f":
        raise ShapeError(f"{path}: its faces name vertices by numbers with a fraction.")
    if len(corners) and not 0 <= corners.min() <= corners.max() < vertices:
        wrong = corners.max() if corners.max() >= vertices else corners.min()
        raise ShapeError(f"{path} has a face with vertex {wrong}, expected 0 .. {vertices - 1}.")


def _strip_triangles(length: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Triangles of strips: each corner from the third on makes one with the two before it, every other one turned around.
    -1 begins another strip."""
    last = np.zeros(len(corners), bool)
    last[np.cumsum(length)[length > 0] - 1] = True
    starts = np.concatenate([[True], last[:-1]]) | (corners < 0) if len(corners) else np.empty(0, bool)
    strip = np.cumsum(starts)
    place = np.arange(len(corners)) - np.maximum.accumulate(np.where(starts, np.arange(len(corners)), 0))
    place -= (corners[np.maximum(np.arange(len(corners)) - place, 0)] < 0).astype(np.int64)
    ends = np.flatnonzero(place >= 2)
    ends = ends[(strip[ends] == strip[ends - 2]) & (corners[ends] >= 0)]
    triangles = np.stack([corners[ends - 2], corners[ends - 1], corners[ends]], 1)
    turned = place[ends] % 2 == 1
    triangles[turned] = triangles[turned][:, [1, 0, 2]]
    whole = (triangles[:, 0] != triangles[:, 1]) & (triangles[:, 1] != triangles[:, 2])
    return triangles[whole & (triangles[:, 0] != triangles[:, 2])]


# --- STL ---------------------------------------------------------------------------------------------------------

FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def _read_stl(path: Path) -> Mesh:
    content = path.read_bytes()
    head, room = 84, len(content) - 84
    count = int.from_bytes(content[80:84], "little") if room >= 0 else 0
    # A binary file may begin with "solid", too: its length tells.
    if room >= 0 and room == count * FACET.itemsize:
        corners = _stl_corners(content, count, head)
    elif content.lstrip()[:5].lower() == b"solid" and b"\0" not in content[:1024]:
        corners = _read_stl_text(path, content)
    elif room < 0:
        raise ShapeError(f"{path} ends in its header (truncated?).")
    elif room < count * FACET.itemsize:
        raise ShapeError(f"{path} ends after {room // FACET.itemsize} of {count} triangles (truncated?).")
    elif content[head + count * FACET.itemsize :].strip(b"\0 \r\n"):
        say(f"{path}: what follows the {count} triangles that its header counts is left")
        corners = _stl_corners(content, count, head)
    else:
        corners = _stl_corners(content, count, head)
    if len(corners) == 0:
        raise ShapeError(f"{path} has no triangles.")
    return Mesh(corners, np.arange(len(corners)).reshape(-1, 3))


def _stl_corners(content: bytes, count: int, head: int) -> np.ndarray:
    """The corners [3 F, 3] of a binary file's triangles."""
    return np.frombuffer(content, FACET, count, head)["corners"].reshape(-1, 3).astype(np.float64)


def _read_stl_text(path: Path, content: bytes) -> np.ndarray:
    """The corners [3 F, 3] of all solids of a text file."""
    corners: list[tuple[float, float, float]] = []
    inside, begun, number = False, 0, 0
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        word = words[0].lower()
        try:
            if word == b"vertex":
                x, y, z = words[1:4]
                corners.append((float(x), float(y), float(z)))
            elif word == b"facet":
                begun = len(corners)
            elif word == b"endfacet":
                if len(corners) - begun != 3:
                    raise ShapeError(
                        f"{path}, line {number}: a facet of {len(corners) - begun} corners, expected 3."
                    )
            elif word in (b"solid", b"endsolid"):
                inside = word == b"solid"
            elif word not in (b"outer", b"endloop"):
                raise ValueError
        except ShapeError:
            raise
        except ValueError:
            quoted = line.strip()[:60].decode("latin-1")
            raise ShapeError(f"{path}, line {number}: {quoted!r} is no line of an STL file.") from None
    if inside:
        raise ShapeError(
            f"{path}, line {number}: ends after {len(corners) // 3} triangles without endsolid (truncated?); if it is "
            "whole, add the line endsolid."
        )
    return np.array(corners, dtype=np.float64).reshape(-1, 3)


# --- OBJ ---------------------------------------------------------------------------------------------------------

FREE_FORM = (
    b"bmat",
    b"bsp",
    b"bzp",
    b"cdc",
    b"cdp",
    b"cstype",
    b"curv",
    b"curv2",
    b"deg",
    b"res",
    b"step",
    b"surf",
)
# Lines that say nothing of the surface; a word that is none of these is a sign of damage.
LEFT = (
    b"vt", b"vn", b"vp", b"g", b"o", b"s", b"mg", b"l", b"p", b"mtllib", b"maplib", b"usemap", b"lod", b"bevel",
    b"c_interp", b"d_interp", b"shadow_obj", b"trace_obj", b"ctech", b"stech", b"call", b"csh", b"end",
)  # fmt: skip


def _read_obj(path: Path) -> Mesh:
    """The vertices, and the faces of all objects and groups, one material after the other."""
    vertices: list[tuple[float, float, float]] = []
    length: list[int] = []
    corners: list[int] = []
    faces_of: dict[bytes, tuple[list[int], list[int]]] = {}  # of each material
    rest = b""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.endswith(b"\\"):
            rest += line[:-1] + b" "
            continue
        words, rest = (rest + line).split(), b""
        if not words:
            continue
        word = words[0]
        try:
            if word == b"v":
                if len(words) < 4:
                    raise ShapeError(f"{path}, line {number}: a vertex ends before its third coordinate.")
                vertices.append((float(words[1]), float(words[2]), float(words[3])))
            elif word in (b"f", b"fo"):
                try:
                    found = list(map(int, words[1:]))
                except ValueError:  # vertex/texture/normal
                    found = [int(one.partition(b"/")[0]) for one in words[1:]]
                if len(found) < 3:
                    raise ShapeError(
                        f"{path}, line {number}: a face of {len(found)} corners, expected 3 or more."
                    )
                if min(found) < 1:  # backwards from the vertices so far
                    stated, found = found, [len(vertices) + 1 + one if one < 0 else one for one in found]
                    if min(found) < 1:
                        raise ShapeError(
                            f"{path}, line {number}: a face with vertex {stated[found.index(min(found))]} after "
                            f"{len(vertices)} vertices; expected 1, 2, .. or -1, -2, .."
                        )
                if not faces_of:
                    length, corners = faces_of.setdefault(b"", ([], []))
                length.append(len(found))
                corners += found
            elif word == b"usemtl":
                length, corners = faces_of.setdefault(b" ".join(words[1:]), ([], []))
            elif word in FREE_FORM:
                raise ShapeError(
                    f"{path}, line {number}: {word.decode()!r} belongs to a free-form surface, which is not read; export it "
                    "as a mesh."
                )
            elif not (word.startswith(b"#") or word in LEFT):
                raise ValueError
        except ShapeError:
            raise
        except ValueError:
            quoted = line.strip()[:60].decode("latin-1")
            raise ShapeError(f"{path}, line {number}: {quoted!r} is no line of an OBJ file.") from None
    highest = max((max(corners) for _, corners in faces_of.values() if corners), default=0)
    if highest > len(vertices):
        raise ShapeError(
            f"{path} has a face with vertex {highest}, and {len(vertices)} vertices (truncated?)."
        )
    # The last material first: seeds draw the same points as they always did.
    pieces = [_fans(np.array(n), np.array(c) - 1) for n, c in reversed(faces_of.values()) if n]
    triangles = np.concatenate([np.empty((0, 3), np.int64), *pieces])
    return Mesh(np.array(vertices, dtype=np.float64).reshape(-1, 3), triangles)


def _fans(length: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """As `triangulate`; but where faces have several lengths, the triangles of each stand where it stood."""
    if (length == length[0]).all():
        return triangulate(length, corners)
    fans = length - 2
    begin = np.repeat(np.cumsum(length) - length, fans)
    step = np.arange(fans.sum()) - np.repeat(np.cumsum(fans) - fans, fans)
    triangles = np.stack([begin, begin + step + 1, begin + step + 2], 1)
    second = np.repeat(length == 4, fans) & (step == 1)
    triangles[second] = triangles[second][:, [1, 2, 0]]
    return corners[triangles].astype(np.int64)


# --- glTF --------------------------------------------------------------------------------------------------------


def _read_gltf(path: Path) -> Mesh:
    from dropfold.data_scripts.readers import gltf

    return Mesh(*gltf.read_triangles(path))
