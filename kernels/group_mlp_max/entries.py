"""What the operators of group_mlp_max take: entries of groups, layers, the gradient that backward begins with; and tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

ROWS_PER_BLOCK = 256  # whose sums are taken in float32 before the blocks are merged in float64


class Entries(NamedTuple):
    """The entries of all groups."""

    q: Tensor  # [M, C]
    p: Tensor  # [G, C]
    ptr: Tensor  # [G + 1]
    idx: Tensor  # [E]
    owner: Tensor  # [E] int32
    count: Tensor  # type: ignore[assignment]  # [E] in the type of q, or [0]: each entry stands once


class Source(NamedTuple):
    """The entries and the layers up to the last activation, counted from 0: `weights[i]` takes z of layer i to y of layer
    i + 1, `vectors[i]` and `slopes[i]` are of its BatchNorm and activation."""

    entries: Entries
    weights: list[Tensor]
    vectors: list[Tensor]
    slopes: list[float]


class LastGradient(NamedTuple):
    """The gradient that backward begins with, at the last z less `offset`: z `matrix` + `constant` of every entry, and g of
    each maximum at its entry `argmax`."""

    matrix: Tensor
    constant: Tensor
    offset: Tensor
    g: Tensor
    argmax: Tensor


class Tile(NamedTuple):
    """Groups first .. last - 1: entries start .. stop - 1."""

    first: int
    last: int
    start: int
    stop: int


def take_source(arguments: tuple[Any, ...]) -> tuple[Source, tuple[Any, ...]]:
    """The source that an operator's arguments begin with, and the other arguments."""
    return Source(Entries(*arguments[:6]), *arguments[6:9]), arguments[9:]
