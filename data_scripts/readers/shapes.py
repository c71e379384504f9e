"""One shape from one file: meshes sampled on their surface, clouds as they are, centred into the unit sphere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers import columns as naming
from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.readers.mesh import SUFFIXES as MESHES
from dropfold.data_scripts.readers.mesh import read_mesh
from dropfold.data_scripts.readers.scene_file import TABLES, find_finite, read_cloud, stack_axes
from dropfold.data_scripts.schemas.centre import Centre, normalised
from dropfold.data_scripts.work.errors import ShapeError
from dropfold.data_scripts.work.memory import name_if_too_large
from dropfold.data_scripts.work.notes import tell

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
    centre: Centre = "mean",
    frame: int = 0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """`(points [points, 3], normals [points, 3] or None)` of a file, float32, centred and scaled to the unit sphere; see
    `read_points` and `normalised`. With a `frame` so many points of a mesh at least, and all of a cloud, are centred and
    scaled before `points` of them are drawn: as from a data set that was made with that many."""
    found, normals = read_points(path, max(points, frame), seed, whole or frame > 0, layout, notes)
    found = normalised(found, centre)
    if frame and not whole and len(found) != points:
        chosen = np.random.default_rng(seed).choice(len(found), points, replace=len(found) < points)
        found, normals = found[chosen], None if normals is None else normals[chosen]
    return found, normals


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
        found, normals = read_mesh(path, points, random)
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


def read_numbers(path: Path) -> np.ndarray:
    """The numbers of a text table [n, columns], whatever they are; a bad line is an error with its number."""
    from dropfold.data_scripts.readers import text_file

    return text_file.read_table(path, named=True).rows
