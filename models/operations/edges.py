"""What can stand in an EdgeConv's place, by its name.

| name | what it does with x_i | multiply-adds of a point, from C to C' channels, n points |
|---|---|---|
| edge_conv_k | max over the k nearest neighbours of W [x_j - x_i ; x_i], found in x | 2 k C C' + n C |
| edge_conv_k_reused | the same on the graph that the last layer with one has, its k nearest | 2 k C C' |
| pointwise | W x_i: an EdgeConv whose only neighbour is the point itself | C C' |
| skip | x_i | 0 |
| null | one channel of zeros | 0 |

_w48 at the end of the first three is a width, C' = 48. The textbook makes an EdgeConv's products for each edge, k times as
many; here it needs them once a point, for any k, and k costs searching and gathering. A skip has the channels that it is
given: where a wider layer stood, the matrices that read it lose the columns of the channels that are not there, as if they
were zeros.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from dropfold.models.operations.names import unknown

Kind = Literal["edge_conv", "pointwise", "skip", "null"]
KINDS: tuple[Kind, ...] = ("edge_conv", "pointwise", "skip", "null")
NAME = re.compile(r"(?:(edge_conv)_([1-9]\d*)(_reused)?|(pointwise))(?:_w([1-9]\d*))?|(skip)|(null)")


@dataclass(frozen=True)
class EdgeOperation:
    """kind, k neighbours, whether their graph is the one before, and the width; None: the layer's usual one."""

    kind: Kind
    k: int = 0
    reused: bool = False
    width: int | None = None

    @classmethod
    def parse(cls, name: str) -> EdgeOperation:
        """The operation of a name.

        Raises:
            ValueError: no such operation; the nearest names.
        """
        found = NAME.fullmatch(name)
        if found is None:
            known = "edge_conv_20", "edge_conv_20_reused", "edge_conv_20_w48", "pointwise", "skip", "null"
            raise ValueError(unknown("operation", name, known))
        edge, k, reused, pointwise, width, skip, null = found.groups()
        kind: Any = edge or pointwise or skip or null
        return cls(kind, int(k or 0), reused is not None, None if width is None else int(width))

    def __str__(self) -> str:
        name = f"edge_conv_{self.k}" + "_reused" * self.reused if self.kind == "edge_conv" else self.kind
        return name if self.width is None else f"{name}_w{self.width}"

    def without_width(self) -> EdgeOperation:
        """The operation at its layer's usual width."""
        return replace(self, width=None)


class Skip(nn.Module):
    """x itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Null(nn.Module):
    """One channel of zeros at each point of x [..., C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], 1)
