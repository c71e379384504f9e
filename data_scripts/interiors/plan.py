"""A room as a plan: its walls with openings, the items in it, and whether one more item may stand there.

Room frame: x in 0 .. width, y in 0 .. depth, z in 0 .. height, metres. Walls are counted 0 south (y = 0), 1 east, 2 north,
3 west; a place along a wall is its x or its y. An item turned by 0 faces south.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

SOUTH, EAST, NORTH, WEST = range(4)
FACING = (math.pi, -math.pi / 2, 0.0, math.pi / 2)  # the turn of an item whose back is to this wall
SWING = 1.0  # metres before a door that stay free
CLEARANCE = 0.3  # half the width of who walks through
CELL = 0.05  # of the grid that walking is checked on
OPEN = 0.18  # the least share of the floor that one can stand on
BODY = 1.6  # metres: what hangs higher blocks nobody's way


@dataclass(frozen=True)
class Opening:
    """A door or window in a wall, from `start` to `end` along it."""

    wall: int
    start: float
    end: float
    bottom: float
    top: float
    role: str
    """door, double door or window."""


@dataclass(frozen=True)
class Item:
    """Something in the room: a model of the catalogue, or (model -1) a box or (model -2) an upright cylinder."""

    role: str
    label: str
    model: int
    size: tuple[float, float, float]
    x: float
    y: float
    z: float
    turn: float
    """Radians about the upright axis."""

    def corners(self, grow: float = 0.0) -> np.ndarray:
        """`[4, 2]` of the footprint, `grow` metres larger on each side."""
        w, d = self.size[0] / 2 + grow, self.size[1] / 2 + grow
        c, s = math.cos(self.turn), math.sin(self.turn)
        square = ((-w, -d), (w, -d), (w, d), (-w, d))
        return np.array([(self.x + c * u - s * v, self.y + s * u + c * v) for u, v in square])

    @property
    def top(self) -> float:
        return self.z + self.size[2]


@dataclass
class Plan:
    """One room; `items` grow as it is furnished. `origin` is where the room's corner lies in its area."""

    name: str
    kind: str
    area: int
    width: float
    depth: float
    height: float
    origin: tuple[float, float] = (0.0, 0.0)
    openings: list[Opening] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    zones: list[Item] = field(default_factory=list)
    """Space that stays free: door swings, the air before windows and boards."""

    def length(self, wall: int) -> float:
        """The length of a wall in metres."""
        return self.width if wall in (SOUTH, NORTH) else self.depth

    def at_wall(self, wall: int, along: float, out: float) -> tuple[float, float]:
        """The point `out` metres from a wall, `along` it."""
        return (
            (along, out),
            (self.width - out, along),
            (along, self.depth - out),
            (out, along),
        )[wall]

    def open(self, opening: Opening) -> None:
        """Add a door or window, and the space that must stay free before it."""
        self.openings.append(opening)
        width = opening.end - opening.start
        out = 0.45 if opening.role == "window" else max(SWING, width if opening.role == "door" else width / 2)
        self.keep_free(
            opening.wall, (opening.start + opening.end) / 2, width, out, opening.bottom, opening.top
        )

    def keep_free(self, wall: int, along: float, width: float, out: float, bottom: float, top: float) -> None:
        """Nothing may be put within `out` metres of this part of a wall."""
        x, y = self.at_wall(wall, along, out / 2)
        size = (width, out, top - bottom)
        self.zones.append(Item("zone", "", -1, size, x, y, bottom, FACING[wall]))

    def doors(self) -> list[Opening]:
        return [o for o in self.openings if o.role != "window"]

    def fits(self, item: Item, gap: float = 0.02) -> bool:
        """Whether an item is inside the room, meets nothing, and leaves every door and the floor within reach."""
        corners = item.corners()
        inside = (corners >= 0.005).all() and (corners <= (self.width - 0.005, self.depth - 0.005)).all()
        if not inside or item.top > self.height:
            return False
        grown = item.corners(gap)
        for other in (*self.items, *self.zones):
            if _apart(item.z, item.top, other.z, other.top):
                continue
            if overlap(grown, other.corners()):
                return False
        return item.z > BODY or self.walkable(item)

    def put(self, item: Item, gap: float = 0.02) -> bool:
        """Add an item if it fits; returns whether it did."""
        if self.fits(item, gap):
            self.items.append(item)
            return True
        return False

    def free(self, *more: Item) -> np.ndarray:
        """`[depth, width]` cells of the floor on which somebody can stand, `CLEARANCE` away from all things and walls."""
        y, x = np.mgrid[: int(self.depth / CELL), : int(self.width / CELL)] * CELL + CELL / 2
        apart = np.minimum(np.minimum(x, self.width - x), np.minimum(y, self.depth - y))
        for item in (*self.items, *more):
            if item.z < BODY:
                c, s = math.cos(item.turn), math.sin(item.turn)
                u = np.abs(c * (x - item.x) + s * (y - item.y)) - item.size[0] / 2
                v = np.abs(c * (y - item.y) - s * (x - item.x)) - item.size[1] / 2
                apart = np.minimum(apart, np.hypot(np.maximum(u, 0), np.maximum(v, 0)))
        return apart > CLEARANCE + CELL / 2  # in the gaps of the grid, too

    def reached(self, *more: Item) -> tuple[np.ndarray, np.ndarray]:
        """`(free, reached)`: the cells to stand on, and those of them that can be walked to from every door."""
        free = self.free(*more)
        parts, _ = ndimage.label(free)
        starts = []
        for door in self.doors():
            x, y = self.at_wall(door.wall, (door.start + door.end) / 2, 0.5)
            starts.append(parts[min(int(y / CELL), len(free) - 1), min(int(x / CELL), free.shape[1] - 1)])
        if not starts or 0 in starts or len(set(starts)) > 1:
            return free, np.zeros_like(free)
        return free, parts == starts[0]

    def walkable(self, *more: Item) -> bool:
        """Whether all doors are joined, and with them 97 % of the cells to stand on and a share `OPEN` of the floor."""
        free, reached = self.reached(*more)
        return bool(reached.sum() >= 0.97 * free.sum() and reached.mean() >= OPEN)


def _apart(low: float, high: float, other_low: float, other_high: float) -> bool:
    return high <= other_low + 1e-6 or other_high <= low + 1e-6


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two rectangles `[4, 2]` share more than an edge: no side of either separates them."""
    for rectangle in (one, other):
        for side in (rectangle[1] - rectangle[0], rectangle[2] - rectangle[1]):
            a, b = one @ side, other @ side
            if a.max() <= b.min() + 1e-9 or b.max() <= a.min() + 1e-9:
                return False
    return True
