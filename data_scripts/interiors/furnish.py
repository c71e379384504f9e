"""How things are put into a room: against a wall, in the open, around a table, on top of another, under the ceiling.

Every way tries random places until one fits (`Plan.fits`) and gives None when none did: a crowded room stays a room
that one can walk through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dropfold.data_scripts.interiors.catalogue import Piece, Stock
from dropfold.data_scripts.interiors.plan import FACING, Item, Plan

TRIES = 50


def front(turn: float) -> np.ndarray:
    """The direction an item faces."""
    return np.array([math.sin(turn), -math.cos(turn)])


class Furnisher:
    """Puts pieces of a stock into a plan, at random places that fit."""

    def __init__(self, plan: Plan, stock: Stock, random: np.random.Generator) -> None:
        self.plan, self.stock, self.random = plan, stock, random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.random.random() < probability)

    def piece(self, role: str, widest: float = np.inf) -> Piece | None:
        return self.stock.pick(role, self.random, widest)

    def against(
        self,
        what: str | Piece | None,
        walls: tuple[int, ...] = (0, 1, 2, 3),
        out: float = 0.04,
        z: float = 0.0,
        widest: float = np.inf,
        gap: float = 0.05,
    ) -> Item | None:
        """With its back to a wall, `out` metres from it."""
        piece = self.piece(what, widest) if isinstance(what, str) else what
        if piece is None:
            return None
        for _ in range(TRIES):
            wall = int(self.random.choice(walls))
            half = piece.size[0] / 2 + 0.02
            if self.plan.length(wall) < 2 * half:
                continue
            along = self.random.uniform(half, self.plan.length(wall) - half)
            if self.chance(0.3):  # into a corner
                along = half if self.chance(0.5) else self.plan.length(wall) - half
            x, y = self.plan.at_wall(wall, along, out + piece.size[1] / 2)
            item = _stand(piece, (x, y), z, FACING[wall])
            if self.plan.put(item, gap):
                return item
        return None

    def open(
        self, what: str | Piece | None, z: float = 0.0, margin: float = 0.1, gap: float = 0.1
    ) -> Item | None:
        """Anywhere on the floor, at any angle."""
        piece = self.piece(what) if isinstance(what, str) else what
        if piece is None:
            return None
        for _ in range(TRIES):
            reach = margin + max(piece.size[:2]) / 2
            x = self.random.uniform(reach, max(self.plan.width - reach, reach + 0.01))
            y = self.random.uniform(reach, max(self.plan.depth - reach, reach + 0.01))
            item = _stand(piece, (x, y), z, self.random.uniform(-math.pi, math.pi))
            if self.plan.put(item, gap):
                return item
        return None

    def beside(self, of: Item, what: str | Piece | None, side: int, gap: float = 0.06) -> Item | None:
        """To the right (1) or left (-1) of an item, backs in one line."""
        piece = self.piece(what) if isinstance(what, str) else what
        if piece is None:
            return None
        ahead, across = front(of.turn), np.array([math.cos(of.turn), math.sin(of.turn)])
        at = np.array([of.x, of.y]) + side * across * ((of.size[0] + piece.size[0]) / 2 + gap)
        at = at - ahead * (of.size[1] - piece.size[1]) / 2
        item = _stand(piece, at, 0.0, of.turn)
        return item if self.plan.put(item, 0.0) else None

    def before(
        self,
        of: Item,
        what: str | Piece | None,
        gap: float,
        facing: bool = True,
        side: float = 0.0,
        wobble: float = 0.0,
    ) -> Item | None:
        """In front of an item, facing it or facing as it does; `side` moves it along the item's front."""
        piece = self.piece(what) if isinstance(what, str) else what
        if piece is None:
            return None
        across = np.array([math.cos(of.turn), math.sin(of.turn)])
        at = (
            np.array([of.x, of.y]) + front(of.turn) * ((of.size[1] + piece.size[1]) / 2 + gap) + side * across
        )
        turn = of.turn + (math.pi if facing else 0.0) + self.random.uniform(-wobble, wobble)
        item = _stand(piece, at, 0.0, turn)
        return item if self.plan.put(item, 0.01) else None

    def around(self, table: Item, chair: Piece | None, share: float = 1.0, ends: bool = True) -> int:
        """Chairs around a table, facing it, drawn out by a hand's width; returns how many. `share`: of the places taken."""
        if chair is None:
            return 0
        width, depth = table.size[:2]
        if table.role in ("round table", "bar table"):
            count = max(2, int(math.pi * (width + 0.3) / 0.95))
            first = self.random.uniform(0, 2 * math.pi)
            places = [(first + 2 * math.pi * i / count, 0.0, max(width, depth) / 2) for i in range(count)]
        else:
            row = max(1, int(width / (chair.size[0] + 0.14)))
            steps = (np.arange(row) - (row - 1) / 2) * width / row
            places = [(turn, s, depth / 2) for turn in (0.0, math.pi) for s in steps]
            if ends and depth > 0.7:
                places += [(turn, 0.0, width / 2) for turn in (math.pi / 2, -math.pi / 2)]
        done = 0
        for turn, along, reach in places:
            if not self.chance(share):
                continue
            towards = table.turn + turn
            out = reach + self.random.uniform(0.05, 0.16) + chair.size[1] / 2
            across = np.array([math.cos(towards), math.sin(towards)])
            at = np.array([table.x, table.y]) + front(towards) * out + along * across
            item = _stand(chair, at, 0.0, towards + math.pi + self.random.uniform(-0.12, 0.12))
            done += self.plan.put(item, 0.005)
        return done

    def table_with_chairs(
        self, role: str, chair: str, least: int, share: float = 1.0, pair: bool = False
    ) -> Item | None:
        """A table in the open with at least `least` chairs of one model; with `pair`, two tables end to end."""
        for _ in range(TRIES // 2):
            before = list(self.plan.items)
            table, seat = self.piece(role), self.piece(chair)
            if table is None or seat is None:
                return None
            long = (table.size[1] > table.size[0]) == (self.plan.depth > self.plan.width)
            turn = 0.0 if long else math.pi / 2  # along the room
            x = self.plan.width * self.random.uniform(0.32, 0.68)
            y = self.plan.depth * self.random.uniform(0.36, 0.64)
            shift = np.array([math.cos(turn), math.sin(turn)]) * (table.size[0] / 2 + 0.01)
            spots = [(x, y)] if not pair else [(x - shift[0], y - shift[1]), (x + shift[0], y + shift[1])]
            items = [_stand(table, spot, 0.0, turn) for spot in spots]
            seats = 0
            if all(self.plan.put(item, 0.0) for item in items):
                seats = sum(self.around(item, seat, share, ends=not pair) for item in items)
            if seats >= least:
                return items[0]
            self.plan.items[:] = before
        return None

    def on(
        self, of: Item | None, what: str | Piece | None, back: bool = False, side: float | None = None
    ) -> Item | None:
        """On top of an item, at its back edge or anywhere, where nothing stands yet."""
        piece = self.piece(what) if isinstance(what, str) else what
        if piece is None or of is None:
            return None
        across = np.array([math.cos(of.turn), math.sin(of.turn)])
        shrink = 0.7 if of.role == "round table" else 1.0
        reach_w = of.size[0] * shrink / 2 - piece.size[0] / 2 - 0.04
        reach_d = of.size[1] * shrink / 2 - piece.size[1] / 2 - 0.04
        if min(reach_w, reach_d) < 0:
            return None
        for _ in range(12):
            u = self.random.uniform(-reach_w, reach_w) if side is None else side * reach_w
            v = -reach_d if back else self.random.uniform(-reach_d, reach_d)
            at = np.array([of.x, of.y]) + u * across + v * front(of.turn)
            item = _stand(piece, at, of.top, of.turn + self.random.uniform(-0.05, 0.05))
            if self.plan.put(item, 0.005):
                return item
        return None

    def hang(self, what: str | Piece | None, x: float, y: float, turn: float = 0.0) -> Item | None:
        """Hang it from the ceiling at (x, y)."""
        piece = self.piece(what) if isinstance(what, str) else what
        if piece is None:
            return None
        item = _stand(piece, (x, y), self.plan.height - piece.size[2], turn)
        return item if self.plan.put(item, 0.02) else None

    def without(self, *items: Item | None) -> None:
        """Remove items from the plan."""
        gone = {id(item) for item in items}
        self.plan.items[:] = [item for item in self.plan.items if id(item) not in gone]


def box(role: str, label: str, width: float, depth: float, height: float) -> Piece:
    """A plain box as a piece."""
    return Piece(role, label, -1, (width, depth, height))


def cylinder(role: str, label: str, across: float, height: float) -> Piece:
    """A plain upright cylinder as a piece."""
    return Piece(role, label, -2, (across, across, height))


def _stand(piece: Piece, at: Sequence[float] | np.ndarray, z: float, turn: float) -> Item:
    return Item(piece.role, piece.label, piece.model, piece.size, float(at[0]), float(at[1]), z, float(turn))
