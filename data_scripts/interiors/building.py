"""An area as a floor of a building: a hallway along x, rooms on both sides, a door between the hallway and each room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dropfold.data_scripts.interiors.catalogue import Stock
from dropfold.data_scripts.interiors.plan import EAST, NORTH, SOUTH, WEST, Opening, Plan

THICKNESS = 0.24  # of the walls between rooms
# Rooms of each area in the order in which they are built; what is not a hallway has window, door, table, chair, bookcase.
PROGRAMME = {
    1: ("hallway", "office", "conferenceRoom", "lounge", "office", "storage", "pantry"),
    2: ("hallway", "lounge", "bedroom", "pantry", "office", "bedroom", "storage"),
    3: ("hallway", "bedroom", "lounge", "office", "conferenceRoom", "bedroom", "pantry"),
    4: ("hallway", "conferenceRoom", "storage", "pantry", "office", "lounge", "office"),
    5: ("hallway", "office", "lounge", "conferenceRoom", "bedroom", "pantry", "storage"),
    6: ("hallway", "storage", "office", "lounge", "pantry", "bedroom", "conferenceRoom"),
}
# Width and depth: lowest and highest.
SIZES = {
    "office": ((4.2, 5.2), (4.0, 4.8)),
    "conferenceRoom": ((5.0, 6.4), (4.3, 5.2)),
    "lounge": ((4.5, 5.6), (4.4, 5.2)),
    "bedroom": ((4.2, 4.9), (4.0, 4.7)),
    "pantry": ((4.2, 5.2), (4.0, 4.8)),
    "storage": ((4.2, 5.2), (4.0, 4.8)),
}
HEIGHTS = {1: 2.9, 2: 2.6, 3: 2.75, 4: 3.2, 5: 2.85, 6: 3.0}


@dataclass(frozen=True)
class _Doors:
    """The kinds of door and window of an area: the models' proportions."""

    door: float
    double: float
    window: float


def plan_area(area: int, rooms: int, stock: Stock, random: np.random.Generator) -> list[Plan]:
    """`rooms` plans of an area, the hallway first, without furniture."""
    programme = PROGRAMME[(area - 1) % len(PROGRAMME) + 1]
    kinds = [programme[0] if i == 0 else programme[1 + (i - 1) % (len(programme) - 1)] for i in range(rooms)]
    height = HEIGHTS[(area - 1) % len(HEIGHTS) + 1]
    shapes = _Doors(*(_width(stock, role, random) for role in ("door", "double door", "window")))
    counts: dict[str, int] = {}
    plans = []
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
        (low, high), (near, far) = SIZES.get(kind, ((8.0, 8.0), (2.3, 2.9)))
        width, depth = random.uniform(low, high), random.uniform(near, far)
        plans.append(
            Plan(f"{kind}_{counts[kind]}", kind, area, round(width, 2), round(depth, 2), round(height, 2))
        )
    hall, others = plans[0], plans[1:]
    north, south = others[::2], others[1::2]
    rows = [sum(p.width + THICKNESS for p in row) - THICKNESS for row in (north, south) if row]
    hall.width = round(max([*rows, 6.0]), 2)
    for row, wall in ((north, SOUTH), (south, NORTH)):
        x = 0.0
        for plan in row:
            y = hall.depth + THICKNESS if wall == SOUTH else -THICKNESS - plan.depth
            plan.origin = (round(x, 2), round(y, 2))
            _open_room(plan, hall, wall, shapes, random)
            x += plan.width + THICKNESS
    _open_hallway(hall, shapes)
    return plans


def _width(stock: Stock, role: str, random: np.random.Generator) -> float:
    """The width of a random model of this role, at the height of a door (2.05 m) or window (1.3 m)."""
    piece = stock.pick(role, random)
    return {"door": 0.95, "double door": 1.5, "window": 1.1}[role] if piece is None else piece.size[0]


def _open_room(plan: Plan, hall: Plan, wall: int, shapes: _Doors, random: np.random.Generator) -> None:
    """Give a room a door to the hallway near a corner, and windows opposite."""
    role = "double door" if plan.kind == "conferenceRoom" else "door"
    width = float(
        np.clip(shapes.double, 1.3, 1.6) if role == "double door" else np.clip(shapes.door, 0.9, 1.02)
    )
    middle = (
        plan.width * random.uniform(0.17, 0.24)
        if random.random() < 0.5
        else plan.width * random.uniform(0.76, 0.83)
    )
    middle = float(np.clip(middle, width / 2 + 0.15, plan.width - width / 2 - 0.15))
    plan.open(Opening(wall, middle - width / 2, middle + width / 2, 0.0, 2.05, role))
    hall_middle = middle + plan.origin[0]
    hall.open(Opening(NORTH - wall, hall_middle - width / 2, hall_middle + width / 2, 0.0, 2.05, role))
    outside, sill = NORTH - wall, random.uniform(0.85, 0.95)
    top = min(sill + random.uniform(1.2, 1.4), plan.height - 0.45)
    count = 2 if plan.width < 5.8 else 3
    bay = plan.width / count
    wide = float(np.clip(shapes.window * (top - sill) / 1.3, 0.8, min(1.5, bay - 0.5)))
    for i in range(count):
        at = bay * (i + 0.5)
        plan.open(Opening(outside, at - wide / 2, at + wide / 2, sill, top, "window"))


def _open_hallway(hall: Plan, shapes: _Doors) -> None:
    """Give the hallway a door out of the building, and a window at its other end."""
    width = min(float(np.clip(shapes.double, 1.3, 1.6)), hall.depth - 0.4)
    middle = hall.depth / 2
    hall.open(Opening(WEST, middle - width / 2, middle + width / 2, 0.0, 2.05, "double door"))
    hall.open(Opening(EAST, middle - 0.6, middle + 0.6, 0.95, 2.2, "window"))
