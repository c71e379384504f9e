"""Noise in the form in which kernels take it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NONE, ELEMENTS, ROWS = 0, 1, 2


class NoiseArguments(NamedTuple):
    """The five arguments of noise that operators and kernels take."""

    mode: int
    """NONE: no noise. ELEMENTS: the kernel draws a number for each element. ROWS: it reads `keep_scale`."""
    keep_scale: Tensor
    """float32 [M], for ROWS: 0 where a row is dropped, else its scale."""
    p: Tensor
    """Drop probability, for ELEMENTS."""
    noise_scale: Tensor
    """Scale of kept elements, for ELEMENTS."""
    seed: Tensor
