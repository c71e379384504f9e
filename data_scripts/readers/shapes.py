"""One shape from one file: meshes sampled on their surface, clouds as they are, centred into the unit sphere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers.mesh import SUFFIXES as MESHES
from dropfold.data_scripts.readers.mesh import read_mesh
from dropfold.data_scripts.work.errors import ShapeError

TABLES = (".xyz", ".txt", ".pts", ".csv")
SUFFIXES = (*MESHES, *TABLES, ".npy")


def read_shape(
    path: Path, points: int, seed: int = 0, whole: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """`(points [points, 3], normals [points, 3] or None)` of a file, float32, centred and scaled to the unit sphere; see
    `read_points`."""
    found, normals = read_points(path, points, seed, whole)
    return normalised(found), normals


def read_points(
    path: Path, points: int, seed: int = 0, whole: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """`(points [points, 3] float64, normals [points, 3] float32 or None)` of a file, where and as large as it has them.

    Meshes (OFF, OBJ, STL, PLY) are sampled uniformly on their surface; clouds (PLY without faces, XYZ, TXT, CSV,
    NPY; columns x y z [nx ny nz]) are drawn from without replacement, or with it if they have too few points.
    `whole`: a cloud keeps all its points, in their order.
    Three more columns are normals where their rows have length 1 (within 5 % in the median), not where they are colours.
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
    if suffix in MESHES:
        found, normals = read_mesh(path, points, random)
    elif suffix in TABLES or suffix == ".npy":
        table = _read_table(path)
        found, normals = table[:, :3], _normals(table)
    else:
        raise ShapeError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    if not np.isfinite(found).all():
        raise ShapeError(f"{path} holds coordinates that are not finite.")
    if normals is not None and not np.isfinite(normals).all():
        raise ShapeError(f"{path} holds normals that are not finite.")
    if len(found) != points and not whole:
        chosen = random.choice(len(found), points, replace=len(found) < points)
        found, normals = found[chosen], None if normals is None else normals[chosen]
    return found, None if normals is None else np.ascontiguousarray(normals, dtype=np.float32)


def normalised(points: np.ndarray) -> np.ndarray:
    """Centred on the mean, the farthest point at distance 1; float32."""
    points = points.astype(np.float64)
    points = points - points.mean(0)
    return (points / max(np.linalg.norm(points, axis=1).max(), 1e-12)).astype(np.float32)


def _normals(table: np.ndarray) -> np.ndarray | None:
    """Columns 3 to 5, unless they are colours (not of length 1)."""
    if table.shape[1] < 6:
        return None
    length = np.median(np.linalg.norm(table[:, 3:6], axis=1))
    return None if abs(length - 1) > 0.05 else table[:, 3:6]


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
    text = path.read_text(encoding="utf-8", errors="replace").replace(",", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "//"))]
    if not lines:
        raise ShapeError(f"{path} holds no numbers.")
    try:
        return np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
    except ValueError:
        columns = len(lines[0].split())
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
