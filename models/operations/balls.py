"""What can stand in the place of a level of PointNet++'s set abstraction, by its name: `balls`, and what is less in it.

| at the end | what |
|---|---|
| _scale2 | the balls of the second radius alone (multi-scale grouping becomes single-scale) |
| _half, _quarter | half or a quarter of the members of a ball, at most |
| _near | three quarters of the radius; as many multiply-adds |
| _shallow | the perceptron without layers that keep the width |

In this order, e.g. balls_scale1_half_shallow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from dropfold.models.operations.names import unknown

NAME = re.compile(r"balls(?:_scale([1-9]))?(?:_(half|quarter))?(_near)?(_shallow)?")
PARTS = {None: 1, "half": 2, "quarter": 4}
NEAR = 0.75  # of a radius


class Scale(NamedTuple):
    """Balls of one radius, with at most k points, and the widths of their perceptron."""

    radius: float
    k: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Balls:
    """Which scale alone (None: all), which part of the members, whether radius and perceptron are smaller."""

    scale: int | None = None
    part: int = 1
    near: bool = False
    shallow: bool = False

    @classmethod
    def parse(cls, name: str) -> Balls:
        """The operation of a name; ValueError if it is none, with the nearest names."""
        found = NAME.fullmatch(name)
        if found is None:
            known = "balls", "balls_half", "balls_quarter", "balls_near", "balls_shallow", "balls_scale1"
            raise ValueError(unknown("operation", name, known))
        scale, part, near, shallow = found.groups()
        return cls(int(scale) if scale else None, PARTS[part], near is not None, shallow is not None)

    def __str__(self) -> str:
        words = ["balls"] + ([f"scale{self.scale}"] if self.scale else [])
        words += [{2: "half", 4: "quarter"}[self.part]] if self.part > 1 else []
        return "_".join(words + ["near"] * self.near + ["shallow"] * self.shallow)

    def of(self, scales: tuple[Scale, ...]) -> tuple[Scale, ...]:
        """The scales that are left of a level's."""
        if self.scale is not None and self.scale > len(scales):
            raise ValueError(f"{self} takes scale {self.scale}, and this level has {len(scales)}.")
        left = scales if self.scale is None else (scales[self.scale - 1],)
        return tuple(
            Scale(
                scale.radius * (NEAR if self.near else 1.0),
                max(1, scale.k // self.part),
                tuple(scale.widths[i] for i in self.layers(scale)),
            )
            for scale in left
        )

    def layers(self, scale: Scale) -> tuple[int, ...]:
        """Which layers of a scale's perceptron stay."""
        same = {i for i, (a, b) in enumerate(pairwise(scale.widths), 1) if a == b}
        return tuple(i for i in range(len(scale.widths)) if not (self.shallow and i in same))
