"""Which channels are whose: what the columns of each matrix of a network are made of.

`network.wiring()` says it for the networks here, from their present sizes. A layer is named by its module: one with a
`linear` and a `norm`, or a `nn.Linear`. `columns["embed"] == ["edge1", "edge2"]` means that the first columns of
`embed.linear.weight` are the channels of edge1, and that those of edge2 come next. A layer that makes [x_j - x_i ; x_i] of
its input, or is fed a max and a mean, has its source twice. Numbers count channels that are no layer's, as coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from torch import nn

Sources = Sequence[str | int]


class Wiring(NamedTuple):
    """columns: see above. squares: a layer whose outputs are a square matrix on the channels of another one (a T-Net)."""

    columns: dict[str, Sources]
    squares: Mapping[str, str] = MappingProxyType({})


def chain(sources: Sources, *layers: str) -> dict[str, Sources]:
    """Columns of layers of which the first reads `sources`, and each other one the one before."""
    return {layers[0]: sources} | {layer: [before] for before, layer in pairwise(layers)}


def perceptron(layers: nn.ModuleList, name: str, sources: Sources) -> tuple[dict[str, Sources], str]:
    """Columns of the `layers` of the module `name`, and the last one's name."""
    names = [f"{name}.layers.{i}" for i in range(len(layers))]
    return chain(sources, *names), names[-1]
