"""All surfaces of a furnished room as dense points with normals, colours and the object that each belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dropfold.data_scripts.interiors.catalogue import Piece, Stock
from dropfold.data_scripts.interiors.paint import Painter
from dropfold.data_scripts.interiors.plan import FACING, Item, Opening, Plan

REVEAL = 0.12  # how deep a door or window lies in its wall
PANES = 0.6  # the share of a window's points that a scanner sees: the other beams go through the glass


@dataclass
class Surface:
    """Points in the room's frame; `labels[object[i]]` is the class of point i."""

    points: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    """In 0 .. 1, lit."""
    object: np.ndarray
    labels: list[str]
    area: float
    """Square metres of all that was sampled."""


def sample_room(plan: Plan, stock: Stock, density: float, random: np.random.Generator) -> Surface:
    """`density` points a square metre of everything; what is inside a column or beam is left out."""
    painter = Painter(plan.area, random)
    parts: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []  # label, points, normals, colours

    def flat(
        part: str, label: str, origin: list[float], u: list[float], v: list[float]
    ) -> tuple[np.ndarray, ...]:
        points, normals, along = sample_rectangle(np.array(origin), np.array(u), np.array(v), density, random)
        parts.append((label, points, normals, painter.surface(part, along)))
        return points, along

    w, d, h = plan.width, plan.depth, plan.height
    flat("floor", "floor", [0, 0, 0], [w, 0, 0], [0, d, 0])
    flat("ceiling", "ceiling", [0, 0, h], [w, 0, 0], [0, d, 0])
    for wall in range(4):
        x, y = plan.at_wall(wall, 0.0, 0.0)
        step = [1.0, 0.0] if wall in (0, 2) else [0.0, 1.0]
        length = plan.length(wall)
        _, along = flat("wall", "wall", [x, y, 0], [step[0] * length, step[1] * length, 0], [0, 0, h])
        openings = [o for o in plan.openings if o.wall == wall]
        solid = ~np.any([_in_opening(o, along) for o in openings] or [np.zeros(len(along), bool)], axis=0)
        _, points, normals, colours = parts[-1]
        pieces = [(points[solid], normals[solid], colours[solid])]
        for opening in openings:
            pieces += [_sample_reveal(plan, opening, side, density, painter, random) for side in range(4)]
        points, normals, colours = (np.concatenate(arrays) for arrays in zip(*pieces))
        parts[-1] = ("wall", points, normals, colours)
    for opening in plan.openings:
        parts.append(
            _sample_item(_fit_opening(plan, opening, stock, random), stock, density, painter, random)
        )
    parts += [_sample_item(item, stock, density, painter, random) for item in plan.items]

    points, normals, colours = (np.concatenate([p[i] for p in parts]) for i in (1, 2, 3))
    number = np.repeat(np.arange(len(parts)), [len(p[1]) for p in parts])
    lamps = [(i.x, i.y, i.z - 0.05) for i in plan.items if i.role in ("light", "hanging lamp")]
    windows = [
        (*plan.at_wall(o.wall, (o.start + o.end) / 2, 0.1), (o.bottom + o.top) / 2)
        for o in plan.openings
        if o.role == "window"
    ]
    lit = painter.light(colours, points, normals, np.reshape(lamps, (-1, 3)), np.reshape(windows, (-1, 3)))
    seen = ~_hidden(plan, points, number, 6)
    return Surface(
        points[seen], normals[seen], lit[seen], number[seen], [p[0] for p in parts], seen.sum() / density
    )


def sample_rectangle(
    origin: np.ndarray, u: np.ndarray, v: np.ndarray, density: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(points, normals, along)` of a rectangle: one point anywhere in each cell of a grid; `along` [n, 2] in metres."""
    long, wide = float(np.linalg.norm(u)), float(np.linalg.norm(v))
    columns, rows = (max(1, round(side * math.sqrt(density))) for side in (long, wide))
    cell = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), -1).reshape(-1, 2)
    part = (cell + random.random((columns * rows, 2))) / (columns, rows)
    points = origin + part[:, :1] * u + part[:, 1:] * v
    normal = np.cross(u, v) / max(long * wide, 1e-12)
    return points, np.tile(normal, (len(points), 1)), part * (long, wide)


def _in_opening(opening: Opening, along: np.ndarray) -> np.ndarray:
    a, z = along.T
    return (a > opening.start) & (a < opening.end) & (z > opening.bottom) & (z < opening.top)


def _sample_reveal(
    plan: Plan, opening: Opening, side: int, density: float, painter: Painter, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One of the four faces of the wall around an opening: left, right, top, bottom."""
    ends = ((opening.start, opening.start), (opening.end, opening.end), (opening.start, opening.end))[
        min(side, 2)
    ]
    heights = ((opening.bottom, opening.top),) * 2 + ((opening.top,) * 2, (opening.bottom,) * 2)
    first = np.array([*plan.at_wall(opening.wall, ends[0], 0.0), heights[side][0]])
    last = np.array([*plan.at_wall(opening.wall, ends[1], 0.0), heights[side][1]])
    out = np.array([*plan.at_wall(opening.wall, ends[0], -REVEAL), heights[side][0]]) - first
    points, normals, _ = sample_rectangle(first, last - first, out, density, random)
    return points, normals, painter.surface("wall", np.tile([0.0, 1.0], (len(points), 1)))


def _fit_opening(plan: Plan, opening: Opening, stock: Stock, random: np.random.Generator) -> Item:
    """A door or window of the stock, stretched to its opening."""
    width, height = opening.end - opening.start, opening.top - opening.bottom
    piece = stock.pick(opening.role, random)
    model = -1 if piece is None else piece.model
    x, y = plan.at_wall(opening.wall, (opening.start + opening.end) / 2, 0.03 - REVEAL / 2)
    label = "window" if opening.role == "window" else "door"
    size = (width - 0.01, 0.1, height - 0.01)
    return Item(opening.role, label, model, size, x, y, opening.bottom + 0.005, FACING[opening.wall])


def _sample_item(
    item: Item, stock: Stock, density: float, painter: Painter, random: np.random.Generator
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """The surface of an item at its place in the room."""
    if item.model >= 0:
        local, normals = stock.surface(Piece(item.role, item.label, item.model, item.size), density, random)
    elif item.model == -2:
        local, normals = sample_cylinder(item.size, density, random)
    else:
        local, normals = sample_box(item.size, density, random)
    if item.role == "window":
        kept = random.random(len(local)) < PANES
        local, normals = local[kept], normals[kept]
    colours = painter.item(item.role, item.model, local, item.size)
    c, s = math.cos(item.turn), math.sin(item.turn)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    return item.label, local @ turn + np.array([item.x, item.y, item.z]), normals @ turn, colours


def sample_box(
    size: tuple[float, float, float], density: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The six faces of a box that stands on z = 0, centred in plan."""
    w, d, h = np.diag(size)
    corner = np.array([-size[0] / 2, -size[1] / 2, 0.0])
    faces = [
        (corner, d, w),
        (corner + h, w, d),
        (corner, w, h),
        (corner + d, h, w),
        (corner, h, d),
        (corner + w, d, h),
    ]
    parts = [sample_rectangle(*face, density, random)[:2] for face in faces]
    return np.concatenate([p for p, _ in parts]), np.concatenate([n for _, n in parts])


def sample_cylinder(
    size: tuple[float, float, float], density: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An upright cylinder that stands on z = 0: its side and its top."""
    radius, height = size[0] / 2, size[2]
    _, _, along = sample_rectangle(
        np.zeros(3), np.array([2 * math.pi * radius, 0, 0]), np.array([0, 0, height]), density, random
    )
    angle = along[:, 0] / radius
    normals = np.stack([np.cos(angle), np.sin(angle), np.zeros(len(angle))], 1)
    side = normals * radius + along[:, 1:] * np.array([0, 0, 1.0])
    count = max(1, round(density * math.pi * radius**2))
    spin, out = random.uniform(0, 2 * math.pi, count), radius * np.sqrt(random.random(count))
    top = np.stack([out * np.cos(spin), out * np.sin(spin), np.full(count, height)], 1)
    return np.concatenate([side, top]), np.concatenate([normals, np.tile([0, 0, 1.0], (count, 1))])


def _hidden(plan: Plan, points: np.ndarray, number: np.ndarray, shell: int) -> np.ndarray:
    """Points of floor, ceiling and walls inside or right behind a column, beam, board or light panel."""
    hidden = np.zeros(len(points), bool)
    rows = np.flatnonzero(number < shell)
    for item in plan.items:
        if item.role in ("column", "beam", "board", "light"):
            at = points[rows] - np.array([item.x, item.y, item.z])
            c, s = math.cos(item.turn), math.sin(item.turn)
            u, v = c * at[:, 0] + s * at[:, 1], c * at[:, 1] - s * at[:, 0]
            inside = (np.abs(u) < item.size[0] / 2) & (np.abs(v) < item.size[1] / 2 + 0.045)
            hidden[rows[inside & (at[:, 2] > -0.01) & (at[:, 2] < item.size[2] + 0.03)]] = True
    return hidden
