"""One shape from one file: meshes sampled on their surface, clouds as they are, centred into the unit sphere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MESHES = (".off", ".obj", ".stl", ".ply")
TABLES = (".xyz", ".txt", ".pts", ".csv")
SUFFIXES = (*MESHES, *TABLES, ".npy")


class ShapeError(ValueError):
    """A file is not a shape; the message names it, what is wrong and what is expected."""


def read_shape(path: Path, points: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """`(points [points, 3], normals [points, 3] or None)` of a file, float32, centred and scaled to the unit sphere.

    Meshes (OFF, OBJ, STL, PLY) are sampled uniformly on their surface; clouds (PLY without faces, XYZ, TXT, CSV,
    NPY; columns x y z [nx ny nz]) are drawn from without replacement, or with it if they have too few points.
    """
    path = Path(path)
    if not path.is_file():
        raise ShapeError(f"{path} is not there.")
    if path.stat().st_size == 0:
        raise ShapeError(f"{path} is empty.")
    random = np.random.default_rng(seed)
    suffix = path.suffix.lower()
    if suffix in MESHES:
        found, normals = _read_mesh(path, points, random)
    elif suffix in TABLES or suffix == ".npy":
        table = _read_table(path)
        found, normals = table[:, :3], table[:, 3:6] if table.shape[1] >= 6 else None
    else:
        raise ShapeError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    if not np.isfinite(found).all():
        raise ShapeError(f"{path} holds coordinates that are not finite.")
    if len(found) != points:
        chosen = random.choice(len(found), points, replace=len(found) < points)
        found, normals = found[chosen], None if normals is None else normals[chosen]
    return normalised(found), None if normals is None else np.ascontiguousarray(normals, dtype=np.float32)


def normalised(points: np.ndarray) -> np.ndarray:
    """Centred on the mean, the farthest point at distance 1; float32."""
    points = points.astype(np.float64)
    points = points - points.mean(0)
    return (points / max(np.linalg.norm(points, axis=1).max(), 1e-12)).astype(np.float32)


def _read_mesh(path: Path, points: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
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
        return vertices, None
    return sample_surface(path, vertices, faces, points, random)


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
    """Vertices [V, 3] and triangles [F, 3] of an OFF file; also of ModelNet's `OFF490 518 0`, with no line break."""
    words = path.read_text(errors="replace").split()
    if not words or not words[0].startswith("OFF"):
        raise ShapeError(f"{path} does not begin with OFF.")
    words = ([words[0][3:]] if len(words[0]) > 3 else []) + words[1:]
    try:
        vertices, faces = int(words[0]), int(words[1])
        numbers = np.array(words[3 : 3 + 3 * vertices], dtype=np.float64)
        if len(numbers) != 3 * vertices:
            raise IndexError
        rest, triangles = words[3 + 3 * vertices :], []
        at = 0
        for _ in range(faces):
            n = int(rest[at])
            corners = [int(word) for word in rest[at + 1 : at + 1 + n]]
            if len(corners) != n:
                raise IndexError
            triangles += [(corners[0], corners[i], corners[i + 1]) for i in range(1, n - 1)]
            at += 1 + n
    except IndexError:
        raise ShapeError(f"{path} ends before its last vertex or face (truncated?).") from None
    except ValueError as error:
        raise ShapeError(f"{path} holds a word where a number belongs ({error}).") from None
    indices = np.array(triangles, dtype=np.int64).reshape(-1, 3)
    if indices.size and (indices.min() < 0 or indices.max() >= vertices):
        raise ShapeError(f"{path} has a face with vertex {indices.max()}, and {vertices} vertices.")
    return numbers.reshape(-1, 3), indices


def _read_table(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            table = np.load(path, allow_pickle=False)
        else:
            table = read_numbers(path)
    except ShapeError:
        raise
    except (ValueError, OSError, EOFError) as error:
        raise ShapeError(f"{path} is not a table of numbers ({error}).") from None
    if table.ndim != 2 or table.shape[1] < 3 or len(table) == 0 or table.dtype.kind not in "fiu":
        raise ShapeError(f"{path} is {table.dtype} {table.shape}; expected numbers [points, 3 or more].")
    return table.astype(np.float64)


def read_numbers(path: Path) -> np.ndarray:
    """A text table, columns apart by commas or white space; a bad line is an error with its number."""
    text = path.read_text(errors="replace").replace(",", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "//"))]
    try:
        return np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
    except ValueError:
        columns = len(lines[0].split()) if lines else 0
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or line.lstrip().startswith(("#", "//")):
                continue
            try:
                if len([float(word) for word in words]) != columns:
                    raise ValueError
            except ValueError:
                raise ShapeError(
                    f"{path}, line {number}: {line.strip()[:60]!r} is not a row of {columns} numbers."
                ) from None
        raise
