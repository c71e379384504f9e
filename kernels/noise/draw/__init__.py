"""Noise by dropping: which elements and points are dropped, for every operation that carries noise."""

from dropfold.kernels.noise.draw.arguments import ELEMENTS, NONE, ROWS, NoiseArguments
from dropfold.kernels.noise.draw.operation import (
    Level,
    Noise,
    Reading,
    Scaling,
    as_p,
    check,
    draw,
    keep_by_nearest,
    keep_mask,
    keep_scale,
    new_noise,
    row_keep_scale,
)

__all__ = [
    "ELEMENTS",
    "NONE",
    "ROWS",
    "Level",
    "Noise",
    "NoiseArguments",
    "Reading",
    "Scaling",
    "as_p",
    "check",
    "draw",
    "keep_by_nearest",
    "keep_mask",
    "keep_scale",
    "new_noise",
    "row_keep_scale",
]
