"""What the implementations of draw share: constants and empty outputs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Drawn(NamedTuple):
    """Noise as kernels take it: mode 0 is none, 1 draws each element, 2 reads a factor a row."""

    mode: int
    factor: Tensor
    rate: Tensor
    scale: Tensor
    seed: Tensor


NONE, ELEMENTS, ROWS = 0, 1, 2
