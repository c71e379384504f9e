"""A laser scanner's view of a room: what it sees, how densely, how exactly.

From each position, every surface point is drawn as a small disc into a map of distances over azimuth and elevation;
a point is seen where nothing lies before it. The density falls with distance and with grazing angle as a scanner's
does, but no farther than to a share that leaves far corners covered, as clouds merged from many scans are. Ranges
have noise along the ray, and some returns at the edge of an object lie between it and what is behind (mixed pixels).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy import ndimage

from dropfold.data_scripts.interiors.plan import CELL, Plan
from dropfold.data_scripts.interiors.surface import Surface

ROWS, COLUMNS = 360, 720  # of the map of distances: half a degree
DISC = 1.1  # radius of a disc in distances between points: wide enough that nothing shines through
NEAR = 2.2  # metres within which every point that is faced is kept
NOISE, NOISE_PER_METRE = 0.003, 0.0012  # standard deviation of a range
MIXED = 0.08  # the share of mixed pixels among the returns at an edge
SCOUTED = 30_000  # points that the choice of places looks at
GREY = 0.015  # standard deviation of a colour


@njit(cache=True)
def depth_map(points: np.ndarray, origin: np.ndarray, radius: float, rows: int, columns: int) -> np.ndarray:
    """`[rows, columns]` distance to the nearest disc of this radius (facing the scanner) in each direction."""
    found = np.full((rows, columns), np.inf, np.float32)
    for i in range(len(points)):
        x, y, z = points[i, 0] - origin[0], points[i, 1] - origin[1], points[i, 2] - origin[2]
        away = math.sqrt(x * x + y * y + z * z)
        if away < 1e-3:
            continue
        half = min(radius / away, 0.2)
        elevation, azimuth = math.asin(z / away), math.atan2(y, x)
        low = int((elevation - half + math.pi / 2) / math.pi * rows)
        high = int((elevation + half + math.pi / 2) / math.pi * rows)
        for row in range(max(low, 0), min(high, rows - 1) + 1):
            up = (row + 0.5) / rows * math.pi - math.pi / 2
            rest = max(half * half - (up - elevation) ** 2, 0.0)
            across = min(math.sqrt(rest) / max(math.cos(up), 0.02), math.pi)
            left = math.floor((azimuth - across + math.pi) / (2 * math.pi) * columns)
            right = math.floor((azimuth + across + math.pi) / (2 * math.pi) * columns)
            for column in range(left, right + 1):
                if away < found[row, column % columns]:
                    found[row, column % columns] = away
    return found


def choose_positions(plan: Plan, surface: Surface, random: np.random.Generator) -> np.ndarray:
    """`[2 .. 4, 3]` positions of the scanner: of some random places on the floor, those that together see most."""
    _, reached = plan.reached()
    cells = np.argwhere(reached)[:, ::-1] * CELL + CELL / 2
    if len(cells) == 0:
        cells = np.array([[plan.width / 2, plan.depth / 2]])
    count = int(np.clip(round(plan.width * plan.depth / 7), 2, 4 if plan.kind == "hallway" else 3))
    tried = cells[random.choice(len(cells), min(len(cells), 3 * count), replace=False)]
    tried = np.column_stack([tried, random.uniform(1.4, 1.65, len(tried))])
    some = random.choice(len(surface.points), min(len(surface.points), SCOUTED), replace=False)
    points, normals = surface.points[some], surface.normals[some]
    radius = DISC * math.sqrt(surface.area / len(some))
    views = np.array([_share(points, normals, at, radius, ROWS // 3, COLUMNS // 3)[0] for at in tried])
    chosen: list[int] = []
    for _ in range(min(count, len(tried))):
        together = np.minimum(1, views[chosen].sum(0) + views).sum(1)
        together[chosen] = -1
        chosen.append(int(together.argmax()))
    return tried[chosen]


def _share(
    points: np.ndarray, normals: np.ndarray, origin: np.ndarray, radius: float, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """`(probability [n], gap [n])`: of a point to be in this scan, and how far behind it the next thing is at an edge."""
    ray = points - origin
    away = np.maximum(np.linalg.norm(ray, axis=1), 1e-3)
    facing = np.clip(np.abs(np.einsum("nc,nc->n", ray, normals)) / away, 0.05, 1)
    nearest = depth_map(points.astype(np.float32), origin, radius, rows, columns)
    row = ((np.arcsin(ray[:, 2] / away) / math.pi + 0.5) * rows).astype(int).clip(0, rows - 1)
    column = ((np.arctan2(ray[:, 1], ray[:, 0]) / (2 * math.pi) + 0.5) * columns).astype(int) % columns
    slope = np.minimum(np.sqrt(1 / facing**2 - 1), 5)
    # How much nearer a neighbour on the same plane may be.
    within = 0.03 + (radius + math.pi / rows * away) * slope
    seen = away <= nearest[row, column] + within
    share = seen * np.minimum(1, (NEAR / away) ** 1.5) * np.sqrt(facing)
    behind = ndimage.maximum_filter(np.where(np.isfinite(nearest), nearest, 0), 3, mode=("nearest", "wrap"))
    behind = behind[row, column]
    return share, np.where(seen & (behind > away + 0.25 + within), np.minimum(behind - away, 0.6), 0)


def scan_surface(
    surface: Surface, scanners: np.ndarray, density: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(points [m, 3], colours [m, 3] uint8, object [m])` that the scanners at `scanners` see of a surface."""
    n, s = len(surface.points), len(scanners)
    radius = DISC / math.sqrt(density)
    views = [_share(surface.points, surface.normals, at, radius, ROWS, COLUMNS) for at in scanners]
    share, gap = (np.array(arrays) for arrays in zip(*views))
    total = share.sum(0)
    kept = np.flatnonzero(random.random(n) < total)
    order = np.cumsum(share[:, kept], 0) / total[kept]
    by = (random.random(len(kept)) > order).sum(0).clip(0, s - 1)  # the scanner that a point is from
    ray = surface.points[kept] - scanners[by]
    away = np.linalg.norm(ray, axis=1)
    error = random.normal(0, 1, len(kept)) * (NOISE + NOISE_PER_METRE * away)
    mixed = random.random(len(kept)) < MIXED
    error += mixed * gap[by, kept] * random.random(len(kept))
    points = surface.points[kept] + ray * (error / np.maximum(away, 1e-3))[:, None]
    exposure = random.normal(1, 0.02, s)[by][:, None]
    colours = surface.colours[kept] * exposure + random.normal(0, GREY, (len(kept), 3))
    return points, np.clip(np.rint(colours * 255), 0, 255).astype(np.uint8), surface.object[kept]
