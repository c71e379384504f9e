"""What the fuzzer knows of a format: how to write a valid file of known numbers, and how the product reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Random = np.random.Generator
Arrays = dict[str, np.ndarray]
STEP = 64  # coordinates are multiples of 1 / STEP: exact in float32, and in six decimals of text


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    name: str
    suffix: str
    make: Callable[[Random, Path], Arrays]
    """Writes a valid file to a path of the suffix, each time in another way, and returns what it holds."""
    reads: tuple[Callable[[Path], Arrays], ...]
    """The product's readers; what they return is compared under the names that both have."""
    sealed: bool = False
    """A checksum tells whether what is read is what was written."""
    counted: bool = False
    """A header's count or a mark at the end tells whether a file was cut."""
    damage: Callable[[Random, Path], bool] | None = None
    """Changes a valid file as its structure asks for. Returns whether a checksum can know of it."""
    tolerance: float = 0.0


def chance(random: Random, p: float = 0.5) -> bool:
    return bool(random.random() < p)


def pick(random: Random, *options):
    """One of some things of any kind."""
    return options[int(random.integers(len(options)))]


def draw_points(random: Random, n: int) -> np.ndarray:
    """[n, 3] float64 in a box of 8 x 8 x 4, the first two in its corners."""
    points = random.integers(-4 * STEP, 4 * STEP, (n, 3)) / STEP * [1, 1, 0.5]
    points = np.round(points * STEP) / STEP + 0.0  # no -0
    points[0], points[1] = [-4, -4, -2], [4, 4, 2]
    return points


def draw_columns(random: Random, n: int, colour: bool = True, label: bool = True) -> Arrays:
    """Points, and perhaps colours [n, 3] of bytes and labels [n] of a few small codes; what is not there is empty."""
    found: Arrays = {"points": draw_points(random, n), "colour": np.empty(0), "label": np.empty(0)}
    if colour:
        found["colour"] = random.integers(0, 256, (n, 3))
        found["colour"][0] = 255, 0, 200  # neither fractions nor 16 bits
    if label:
        found["label"] = random.choice(random.permutation(30)[:3] + 1, n)
    return found


def as_triangles(vertices: np.ndarray, faces: list[list[int]]) -> np.ndarray:
    """The triangles' corners [F, 3, 3] of faces, larger ones as fans, in an order that depends on them alone."""
    corners = [(face[0], face[i], face[i + 1]) for face in faces for i in range(1, len(face) - 1)]
    return in_order(vertices[np.array(corners, dtype=np.int64).reshape(-1, 3)])


def in_order(triangles: np.ndarray) -> np.ndarray:
    """Each triangle from its first corner on, and the triangles one after the other."""
    turned = [min((*t[i:], *t[:i]) for i in range(3)) for t in map(tuple, map(_as_tuples, triangles))]
    return np.array(sorted(turned)).reshape(-1, 3, 3)


def _as_tuples(triangle: np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(corner) for corner in triangle.tolist()]


def draw_mesh(random: Random) -> tuple[np.ndarray, list[list[int]]]:
    """Vertices [V, 3] and faces of three to six corners."""
    n = int(random.integers(6, 24))
    size = pick(random, (3,), (4,), (3, 4), (3, 4, 5, 6))
    faces = [
        random.choice(n, int(random.choice(size)), replace=False).tolist()
        for _ in range(random.integers(2, 12))
    ]
    return draw_points(random, n), faces


def write_number(random: Random, value: float) -> str:
    """A number in one of the ways that programs write it, all of them exact."""
    kinds = [f"{value:.6f}", repr(float(value)), f"{value:.10e}", f"{value:.9G}"]
    if value >= 0:
        kinds.append("+" + kinds[0])
    if value == int(value):
        kinds.append(str(int(value)))
    return pick(random, *kinds)
