"""Meshes from files, and points on their surface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError

SUFFIXES = (".off", ".obj", ".stl", ".ply")


def read_mesh(path: Path, points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    import trimesh

    try:
        if path.suffix.lower() == ".off":
            vertices, faces = read_off(path)
        else:
            loaded: Any = trimesh.load(path, process=False)
            if isinstance(loaded, trimesh.Scene):
                loaded = loaded.to_mesh()
            vertices = np.asarray(loaded.vertices, dtype=np.float64)
            faces = np.asarray(getattr(loaded, "faces", np.zeros((0, 3))), dtype=np.int64)
    except ShapeError:
        raise
    except Exception as error:  # the library raises what it likes on broken files
        raise ShapeError(f"{path} is not a readable mesh ({type(error).__name__}: {error}).") from None
    if len(vertices) == 0:
        raise ShapeError(f"{path} has no points.")
    if len(faces) == 0:
        return vertices, _vertex_normals(path) if path.suffix.lower() == ".ply" else None
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ShapeError(f"{path} has a face with vertex {faces.max()}, expected 0 .. {len(vertices) - 1}.")
    if not np.isfinite(vertices).all():
        raise ShapeError(f"{path} holds coordinates that are not finite.")
    return sample_surface(path, vertices, faces, points, random)


def _vertex_normals(path: Path) -> np.ndarray | None:
    """nx, ny, nz of a PLY file's vertices, which trimesh leaves out where there are no faces."""
    from dropfold.data_scripts.readers import ply

    columns = ply.read_vertices(path)
    names = [name for name in ("nx", "ny", "nz") if name in columns]
    return np.stack([columns[name] for name in names], 1) if len(names) == 3 else None


def sample_surface(
    path: Path, vertices: np.ndarray, faces: np.ndarray, points: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals, uniform over the area of the triangles."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    if not area.sum() > 0 or not np.isfinite(area.sum()):
        raise ShapeError(f"{path} has no surface: the area of its {len(faces)} faces is {area.sum()}.")
    chosen = random.choice(len(faces), points, p=area / area.sum())
    u, v = random.random((2, points, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    found = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return found, cross[chosen] / area[chosen, None]


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [F, 3] of an OFF file; also of ModelNet's `OFF490 518 0`, with no line break.

    A line holds one vertex or one face; what follows in it (colours) is left. Larger faces become fans of triangles.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    split = ((number, line.partition("#")[0].split()) for number, line in enumerate(text.splitlines(), 1))
    lines = [(number, words) for number, words in split if words]
    if not lines or not lines[0][1][0].startswith("OFF"):
        raise ShapeError(f"{path} does not begin with OFF.")
    first, header = lines[0]
    counts, start = ([header[0][3:]] if len(header[0]) > 3 else []) + header[1:], 1
    if not counts and len(lines) > 1:
        (first, counts), start = lines[1], 2
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
            if len(words) < 3:
                raise ShapeError(f"{path}, line {line}: a vertex ends before its third coordinate.")
            numbers.append((float(words[0]), float(words[1]), float(words[2])))
        for line, words in rows[vertices:]:
            count = int(words[0])
            corners = [int(word) for word in words[1 : 1 + count]]
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
    return (
        np.array(numbers, dtype=np.float64).reshape(-1, 3),
        np.array(triangles, dtype=np.int64).reshape(-1, 3),
    )
