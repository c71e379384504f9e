"""Colours: each area has its style, each object its own colours with a texture, and the room its light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Style:
    """The look of an area; colours in 0 .. 1."""

    walls: tuple[Colour, ...]
    floor: str
    """planks, carpet or tiles."""
    floors: tuple[Colour, ...]
    ceiling: str
    """panels or plaster."""
    wood: tuple[Colour, ...]
    fabric: tuple[Colour, ...]
    light: Colour
    """Of the lamps."""


LIGHT_WOOD = ((0.80, 0.64, 0.44), (0.86, 0.74, 0.56), (0.71, 0.53, 0.34))
DARK_WOOD = ((0.36, 0.23, 0.14), (0.47, 0.30, 0.18), (0.29, 0.20, 0.15))
WHITE_WOOD = ((0.90, 0.89, 0.86), (0.78, 0.77, 0.74), (0.72, 0.60, 0.45))
STYLES = {
    1: Style(
        ((0.89, 0.88, 0.84), (0.82, 0.84, 0.83), (0.74, 0.79, 0.84)),
        "carpet",
        ((0.45, 0.48, 0.54), (0.56, 0.53, 0.49)),
        "panels",
        LIGHT_WOOD,
        ((0.15, 0.17, 0.22), (0.20, 0.33, 0.52), (0.55, 0.20, 0.18), (0.45, 0.46, 0.47)),
        (1.0, 0.99, 0.96),
    ),
    2: Style(
        ((0.91, 0.86, 0.76), (0.82, 0.72, 0.62), (0.73, 0.79, 0.71)),
        "planks",
        ((0.62, 0.44, 0.28), (0.54, 0.36, 0.22)),
        "plaster",
        DARK_WOOD,
        ((0.52, 0.24, 0.17), (0.75, 0.66, 0.53), (0.30, 0.37, 0.27), (0.60, 0.49, 0.36)),
        (1.0, 0.93, 0.82),
    ),
    3: Style(
        ((0.93, 0.94, 0.94), (0.78, 0.88, 0.87), (0.88, 0.88, 0.92)),
        "tiles",
        ((0.74, 0.75, 0.76), (0.66, 0.70, 0.70)),
        "panels",
        WHITE_WOOD,
        ((0.22, 0.50, 0.52), (0.65, 0.68, 0.70), (0.30, 0.42, 0.62), (0.85, 0.80, 0.70)),
        (0.97, 1.0, 1.0),
    ),
    4: Style(
        ((0.90, 0.87, 0.72), (0.86, 0.82, 0.78), (0.68, 0.45, 0.36)),
        "planks",
        ((0.74, 0.58, 0.39), (0.67, 0.53, 0.38)),
        "plaster",
        LIGHT_WOOD,
        ((0.78, 0.48, 0.13), (0.18, 0.40, 0.28), (0.62, 0.16, 0.14), (0.20, 0.20, 0.22)),
        (1.0, 0.97, 0.90),
    ),
    5: Style(
        ((0.90, 0.90, 0.87), (0.80, 0.80, 0.77), (0.86, 0.81, 0.74)),
        "carpet",
        ((0.54, 0.48, 0.44), (0.46, 0.50, 0.49)),
        "panels",
        ((0.60, 0.43, 0.28), (0.75, 0.60, 0.42), (0.42, 0.29, 0.20)),
        ((0.25, 0.27, 0.32), (0.42, 0.28, 0.36), (0.52, 0.47, 0.40), (0.22, 0.36, 0.42)),
        (1.0, 0.97, 0.92),
    ),
    6: Style(
        ((0.72, 0.71, 0.69), (0.85, 0.84, 0.82), (0.58, 0.62, 0.66)),
        "tiles",
        ((0.60, 0.59, 0.57), (0.66, 0.62, 0.57)),
        "plaster",
        DARK_WOOD + LIGHT_WOOD[:1],
        ((0.30, 0.28, 0.26), (0.58, 0.38, 0.22), (0.16, 0.24, 0.36), (0.70, 0.67, 0.62)),
        (1.0, 0.95, 0.86),
    ),
}
METAL, DARK, WHITE = (0.62, 0.63, 0.65), (0.13, 0.13, 0.14), (0.91, 0.91, 0.90)
LINEN = ((0.93, 0.92, 0.89), (0.80, 0.84, 0.90), (0.87, 0.80, 0.74))
LEAF = ((0.20, 0.40, 0.16), (0.29, 0.48, 0.20), (0.14, 0.31, 0.17))
POT = ((0.62, 0.35, 0.24), (0.85, 0.84, 0.81), (0.35, 0.36, 0.38))
CLOTH = ((0.20, 0.25, 0.40), (0.55, 0.18, 0.20), (0.75, 0.74, 0.70), (0.24, 0.36, 0.28), (0.13, 0.13, 0.15))
SKIN = ((0.86, 0.66, 0.54), (0.60, 0.42, 0.31), (0.78, 0.57, 0.44))
PAPER = ((0.90, 0.89, 0.84), (0.63, 0.20, 0.18), (0.20, 0.33, 0.55), (0.78, 0.63, 0.28), (0.25, 0.42, 0.32))
CERAMIC = ((0.92, 0.91, 0.88), (0.30, 0.45, 0.58), (0.70, 0.36, 0.22), (0.25, 0.38, 0.28), (0.80, 0.72, 0.45))
CARTON = ((0.68, 0.52, 0.35), (0.60, 0.46, 0.31))
# From which share of its height on an object has which material, from the floor up.
LAYERS: dict[str, tuple[tuple[float, str], ...]] = {
    "chair": ((0.0, "wood"), (0.42, "fabric")),
    "office chair": ((0.0, "dark"), (0.36, "fabric")),
    "armchair": ((0.0, "wood"), (0.12, "fabric")),
    "bar stool": ((0.0, "metal"), (0.62, "fabric")),
    "sofa": ((0.0, "wood"), (0.09, "fabric")),
    "corner sofa": ((0.0, "dark"), (0.08, "fabric")),
    "table": ((0.0, "legs"), (0.9, "wood")),
    "round table": ((0.0, "legs"), (0.9, "wood")),
    "desk": ((0.0, "legs"), (0.9, "wood")),
    "bar table": ((0.0, "metal"), (0.92, "wood")),
    "bed": ((0.0, "wood"), (0.33, "linen")),
    "floor lamp": ((0.0, "metal"), (0.74, "linen")),
    "table lamp": ((0.0, "ceramic"), (0.5, "linen")),
    "hanging lamp": ((0.0, "linen"), (0.5, "metal")),
    "plant": ((0.0, "pot"), (0.3, "leaf")),
    "small plant": ((0.0, "pot"), (0.45, "leaf")),
    "person": ((0.0, "dark"), (0.05, "cloth"), (0.5, "other cloth"), (0.85, "skin"), (0.94, "hair")),
    "column": ((0.0, "wall"),),
    "beam": ((0.0, "wall"),),
}
PLAIN = {
    "coffee table": "wood",
    "bedside table": "wood",
    "bookcase": "wood",
    "wardrobe": "front",
    "low cabinet": "front",
    "upper cabinet": "front",
    "vessel": "ceramic",
    "door": "front",
    "double door": "wood",
    "board": "white",
    "screen": "dark",
    "foot": "dark",
    "books": "paper",
    "bin": "dark",
    "carton": "carton",
    "light": "lit",
    "radiator": "white",
}


class Painter:
    """Chooses the colours of one room."""

    def __init__(self, area: int, random: np.random.Generator) -> None:
        self.style = STYLES[(area - 1) % len(STYLES) + 1]
        self.random = random
        self.wall = self._one(self.style.walls, 0.01)
        self.wood = self._one(self.style.wood)
        self.known: dict[tuple[str, int], list[np.ndarray]] = {}  # things of one model are of one colour

    def _one(self, colours: tuple[Colour, ...], spread: float = 0.02) -> np.ndarray:
        """One of some colours, slightly off."""
        chosen = np.array(colours[self.random.integers(len(colours))])
        return np.clip(
            chosen + self.random.normal(0, spread, 3) + self.random.normal(0, 2 * spread), 0.02, 0.98
        )

    def _material(self, name: str) -> np.ndarray:
        palette = {
            "fabric": self.style.fabric,
            "wood": self.style.wood,
            "legs": (*self.style.wood, METAL, DARK, WHITE),
            "front": (*self.style.wood, WHITE, WHITE),
            "metal": (METAL, DARK),
            "dark": (DARK,),
            "white": (WHITE,),
            "linen": LINEN,
            "leaf": LEAF,
            "pot": POT,
            "cloth": CLOTH,
            "other cloth": CLOTH,
            "skin": SKIN,
            "hair": (DARK, *DARK_WOOD),
            "paper": PAPER,
            "ceramic": CERAMIC,
            "carton": CARTON,
            "lit": ((0.97, 0.97, 0.95),),
        }
        if name == "wall":
            return np.clip(self.wall * self.random.uniform(0.9, 1.05), 0, 1)
        return self._one(palette[name])

    def item(self, role: str, model: int, local: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
        """`[n, 3]` colours of an object's points, given in its own frame in metres."""
        share = local / np.array(size) + np.array([0.5, 0.5, 0.0])
        if role == "window":
            return self._textured(self._window(share, size), local)
        layers = LAYERS.get(role, ((0.0, PLAIN.get(role, "wood")),))
        shades = self.known.get((role, model)) if model >= 0 else None
        if shades is None:
            one = role in ("bookcase", "table", "desk") and self.random.random() < 0.5
            shades = [self.wood if one else self._material(material) for _, material in layers]
            self.known[role, model] = shades
        step = np.searchsorted([start for start, _ in layers], share[:, 2], side="right") - 1
        colour = np.array(shades)[np.clip(step, 0, len(shades) - 1)]
        if role == "bookcase":
            colour = self._books(colour, share, size)
        return self._textured(colour, local)

    def _window(self, share: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
        """A frame round panes through which the sky shows."""
        border = np.minimum(share[:, [0, 2]], 1 - share[:, [0, 2]]) * np.array([size[0], size[2]])
        frame = (border.min(1) < 0.07) | (np.abs(share[:, 0] - 0.5) * size[0] < 0.03)
        sky = np.array([0.62, 0.72, 0.80]) * (0.75 + 0.25 * share[:, 2:])
        return np.where(frame[:, None], self._one((WHITE, self.style.wood[0])), sky)

    def _books(self, colour: np.ndarray, share: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
        """Backs of books: stripes of colour on the back panel between the boards."""
        spine = (
            np.floor(share[:, 0] * size[0] / 0.045).astype(int) * 7
            + np.floor(share[:, 2] * 6).astype(int) * 131
        )
        shades = np.array([self._one(PAPER, 0.06) for _ in range(64)])
        inner = (
            (share[:, 1] > 0.3)
            & (np.abs(share[:, 0] - 0.5) < 0.46)
            & (share[:, 2] > 0.06)
            & (share[:, 2] < 0.94)
        )
        shelf = share[:, 2] * 6 % 1 < 0.75
        return np.where((inner & shelf)[:, None], shades[spine % 64], colour)

    def _textured(self, colour: np.ndarray, at: np.ndarray, strength: float = 0.05) -> np.ndarray:
        """With a slow variation of a few decimetres and a fine grain."""
        waves = self.random.normal(0, 7.0, (3, 3))
        slow = np.sin(at @ waves + self.random.uniform(0, 6.3, 3)).sum(1) / 3
        grain = self.random.normal(0, strength / 2, len(at))
        return colour * (1 + strength * slow + grain)[:, None]

    def surface(self, part: str, flat: np.ndarray) -> np.ndarray:
        """`[n, 3]` colours of the floor, the ceiling or a wall; `flat` [n, 2]: metres along it (of a wall: along, up)."""
        if part == "wall":
            colour = np.where((flat[:, 1] < 0.09)[:, None], np.array(WHITE) * 0.92, self.wall)
            return self._textured(colour, np.pad(flat, ((0, 0), (0, 1))), 0.03)
        if part == "ceiling":
            base = np.tile(self._one(((0.93, 0.93, 0.91),), 0.01), (len(flat), 1))
            if self.style.ceiling == "panels":
                base = base * np.where((flat % 0.6 < 0.025).any(1), 0.82, 1.0)[:, None]
            return self._textured(base, np.pad(flat, ((0, 0), (0, 1))), 0.02)
        base = np.tile(self._one(self.style.floors), (len(flat), 1))
        if self.style.floor == "planks":
            row = np.floor(flat[:, 1] / 0.14).astype(int)
            plank = row * 37 + np.floor(flat[:, 0] / 1.2 + row * 0.37).astype(int) * 101
            base = base * (1 + 0.12 * np.sin(plank * 12.9898))[:, None]
        elif self.style.floor == "tiles":
            row, column = np.floor(flat / 0.45).astype(int).T
            base = base * (1 + 0.05 * np.sin(row * 78.2 + column * 37.7))[:, None]
            base = base * np.where((flat % 0.45 < 0.02).any(1), 0.75, 1.0)[:, None]
        return self._textured(
            base, np.pad(flat, ((0, 0), (0, 1))), 0.10 if self.style.floor == "carpet" else 0.05
        )

    def light(
        self,
        colour: np.ndarray,
        points: np.ndarray,
        normals: np.ndarray,
        lamps: np.ndarray,
        windows: np.ndarray,
    ) -> np.ndarray:
        """Lit by lamps `[l, 3]` and windows `[w, 3]` with a falling off, and by the room's own bright walls."""
        shade = np.full((len(points), 3), 0.7)
        for sources, tint, power in (
            (lamps, np.array(self.style.light), 1.0),
            (windows, np.array([0.93, 0.97, 1.0]), 1.6),
        ):
            for source in sources:
                towards = source - points
                apart = np.linalg.norm(towards, axis=1)
                fall = np.abs(np.einsum("nc,nc->n", towards, normals)) / np.maximum(apart, 1e-6)
                shade += (
                    0.8 * power * (fall / (1.5 + apart**2))[:, None] * tint / math.sqrt(max(len(sources), 1))
                )
        shade *= 0.86 + 0.14 * np.clip(points[:, 2:] / 1.2, 0, 1)  # less light near the floor
        return colour * np.minimum(shade, 1.08)
