"""The entries of groups, and the tiles that they are worked on in."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

MOMENTS = 256  # rows whose sums are taken in float32 before they are merged in float64


class Entries(NamedTuple):
    """The entries of all groups."""

    q: Tensor  # [M, C]
    p: Tensor  # [G, C]
    ptr: Tensor  # [G + 1]
    idx: Tensor  # [E]
    owner: Tensor  # [E] int32
    count: Tensor  # type: ignore[assignment]  # [E] in the type of q, or [0]: each entry stands once


class Tile(NamedTuple):
    """Groups first .. last - 1: entries start .. stop - 1."""

    first: int
    last: int
    start: int
    stop: int
