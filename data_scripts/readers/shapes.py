"""One shape from one file: meshes sampled on their surface, clouds as they are, centred into the unit sphere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.readers import columns as naming
from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.readers.scene_file import TABLES, find_finite, read_cloud, stack_axes
from dropfold.data_scripts.work.errors import ShapeError
from dropfold.data_scripts.work.memory import name_if_too_large
from dropfold.data_scripts.work.notes import tell

MESHES = (".off", ".obj", ".stl", ".ply")
CLOUDS = (*TABLES, ".npy", ".pcd", ".las", ".laz")
SUFFIXES = (*MESHES, *CLOUDS)
LEAST, MOST = 1e-9, 1e30  # extents: beyond, squares and quotients lose their digits
LEAST_EXTENT = 1e-12  # of the size of the coordinates: float64 tells no points apart that are closer
MOST_OUTLYING = 1e5  # times the extent of nine tenths of the points: beyond, they are one point to float32


def read_shape(
    path: Path,
    points: int,
    seed: int = 0,
    whole: bool = False,
    layout: Layout = AS_FOUND,
    notes: list[str] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """`(points [points, 3], normals [points, 3] or None)` of a file, float32, centred and scaled to the unit sphere; see
    `read_points`."""
    found, normals = read_points(path, points, seed, whole, layout, notes)
    return normalised(found), normals


def read_points(
    path: Path,
    points: int,
    seed: int = 0,
    whole: bool = False,
    layout: Layout = AS_FOUND,
    notes: list[str] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """`(points [points, 3] float64, normals [points, 3] float32 or None)` of a file, where and as large as it has them.

    Meshes (OFF, OBJ, STL, PLY) are sampled uniformly on their surface; clouds (PLY without faces, and all that `scene_file`
    reads) are drawn from without replacement, or with it if they have too few points. `whole`: a cloud keeps all its
    points, in their order. `columns` says what the columns of a table are; `layout` is what the user says of them. `notes`
    takes what was guessed or left out; without it that is printed to stderr.
    """
    path = Path(path)
    if points < 1:
        raise ShapeError(f"{path}: {points} points were asked for, expected 1 or more.")
    if not path.is_file():
        raise ShapeError(f"{path} is not there.")
    if path.stat().st_size == 0:
        raise ShapeError(f"{path} is empty.")
    random = np.random.default_rng(seed)
    suffix = path.suffix.lower()
    organised, lines = False, list[str]()
    if suffix in MESHES:
        found, normals = _read_mesh(path, points, random)
    elif suffix in CLOUDS:
        found, normals, organised, lines = _read_cloud(path, layout)
    else:
        raise ShapeError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    kept = find_finite(path, {"coordinates": found, "normals": normals}, layout, organised, lines)
    if kept is not None:
        found, normals = found[kept], None if normals is None else normals[kept]
    _check_extent(path, found)
    tell(path, lines, notes)
    if len(found) != points and not whole:
        chosen = random.choice(len(found), points, replace=len(found) < points)
        found, normals = found[chosen], None if normals is None else normals[chosen]
    return found, None if normals is None else np.ascontiguousarray(normals, dtype=np.float32)


def normalised(points: np.ndarray) -> np.ndarray:
    """Centred on the mean, the farthest point at distance 1; float32."""
    points = points.astype(np.float64)
    points = points - points.mean(0)
    return (points / max(np.linalg.norm(points, axis=1).max(), 1e-12)).astype(np.float32)


def _read_cloud(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray | None, bool, list[str]]:
    """Points and normals, whether a cloud is organised (see `scene_file.Cloud`), and what to tell the user."""
    with name_if_too_large(path), np.errstate(invalid="ignore", over="ignore"):
        cloud = read_cloud(path, layout, loose=True)
        points = stack_axes(path, cloud.columns).astype(np.float64)
        normals = naming.pick(cloud.columns, [naming.NORMALS])
        normals = None if normals is None else normals.astype(np.float32)
    return points, normals, cloud.organised, list(cloud.notes)


def _check_extent(path: Path, points: np.ndarray) -> None:
    """Refuse points that would all, or nearly all, be one point in the unit sphere in float32."""
    low, high = points.min(0), points.max(0)
    with np.errstate(over="ignore"):
        extent, size = float((high - low).max()), float(np.abs(points).max())
    if not LEAST < extent < MOST:
        raise ShapeError(
            f"{path} has an extent of {extent:g}: too {'small' if extent < 1 else 'large'} for a shape."
        )
    if extent < LEAST_EXTENT * size:
        raise ShapeError(
            f"{path} has an extent of {extent:g} about {size:g}, which is no shape; move it to 0, 0, 0."
        )
    fifth, rest = np.quantile(points, [0.05, 0.95], axis=0) if len(points) >= 20 else (low, high)
    bulk = float((rest - fifth).max())
    if bulk * MOST_OUTLYING < extent:
        raise ShapeError(
            f"{path} spans {extent:g}, and nine tenths of its points {bulk:g}; cut off the points that lie far away."
        )


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


def read_numbers(path: Path) -> np.ndarray:
    """The numbers of a text table [n, columns], whatever they are; a bad line is an error with its number."""
    from dropfold.data_scripts.readers import text_file

    return text_file.read_table(path, named=True).rows
