"""Which tensor network holds a weight matrix, as plain values: what a config, a command line and a module share."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import Tensor

from dropfold.models.formats.bt import BT
from dropfold.models.formats.cp import CP
from dropfold.models.formats.dense import Dense
from dropfold.models.formats.ht import HT
from dropfold.models.formats.network import Format
from dropfold.models.formats.tr import TR
from dropfold.models.formats.tt import TT
from dropfold.models.formats.tucker import Tucker

FORMATS: dict[str, type[Format]] = {"tt": TT, "tr": TR, "bt": BT, "cp": CP, "tucker": Tucker, "ht": HT}


@dataclass
class FormatSpec:
    """A weight matrix as a tensor network, or dense."""

    format: Literal["dense", "tt", "tr", "bt", "cp", "tucker", "ht"] = "dense"
    """Tensor train, tensor ring, block term, canonical polyadic, Tucker, hierarchical Tucker; dense is none of them."""
    in_modes: tuple[int, ...] = ()
    """Factors of the input size."""
    out_modes: tuple[int, ...] = ()
    """Factors of the output size; an RNN's gates are folded into the first."""
    ranks: tuple[int, ...] = ()
    """One rank for all bonds, or one for each."""
    blocks: int = 2
    """BT: terms of the sum."""
    leaves: Literal["paired", "split", "interleaved"] = "paired"
    """HT: the layout of the leaves."""
    paired: bool | None = None
    """CP and Tucker: factors on pairs of modes, or on each mode alone. Left out: CP's on each mode, Tucker's on pairs."""

    def __post_init__(self) -> None:
        for name in ("in_modes", "out_modes", "ranks"):
            value = getattr(self, name)
            if isinstance(value, int):
                raise ValueError(f"{name} is a tuple, as ({value},); got {value}.")
        if self.format != "dense" and self.format not in FORMATS:
            near = difflib.get_close_matches(str(self.format).lower(), ["dense", *FORMATS], 1, 0.3)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"there is no format {self.format!r}; expected one of {['dense', *FORMATS]}.{hint}"
            )

    def build(self, rows: int, columns: int, gates: int = 1, *, mega: bool = False) -> Format:
        """The format for a matrix [rows, gates columns]; its modes multiply to these sizes (`mega`: to more rows)."""
        if self.format == "dense":
            return Dense(rows, gates * columns)
        out_modes = self.checked_modes(rows, columns, gates, mega)
        if not self.ranks:
            raise ValueError(f"{self.format} needs ranks: one for all bonds, or one for each.")
        return cast(Any, FORMATS[self.format])(self.in_modes, out_modes, self.rank(), **self.options(mega))

    def fitted(
        self, weight: Tensor, gates: int = 1, eps: float | None = None, *, mega: bool = False
    ) -> Format:
        """The format nearest to `weight` [rows, gates columns], at the spec's ranks, or within `eps` if it has none."""
        if self.format == "dense":
            return Dense.from_dense(weight)
        out_modes = self.checked_modes(weight.shape[0], weight.shape[1] // gates, gates)
        options = self.options(mega) | ({"ranks": self.rank()} if self.ranks else {"eps": eps})
        return cast(Any, FORMATS[self.format]).from_dense(weight, self.in_modes, out_modes, **options)

    def checked_modes(self, rows: int, columns: int, gates: int, mega: bool = False) -> tuple[int, ...]:
        """The output modes with the gates in the first; refused if modes do not multiply to the sizes."""
        for name, modes, size in (("in_modes", self.in_modes, rows), ("out_modes", self.out_modes, columns)):
            product = math.prod(modes)
            if not modes or (product < size if mega and name == "in_modes" else product != size):
                raise ValueError(
                    f"{self.format}: {name} {list(modes)} multiply to {product if modes else 'nothing'}, and the size is "
                    f"{size}. Choose factors of {size}{' or more' if mega and name == 'in_modes' else ''}."
                )
        return (gates * self.out_modes[0], *self.out_modes[1:])

    def rank(self) -> int | tuple[int, ...]:
        """One rank for all bonds, or one for each."""
        return self.ranks[0] if len(self.ranks) == 1 else self.ranks

    def options(self, mega: bool) -> dict[str, Any]:
        """What the format takes beside modes and ranks; a mega matrix is cut at the same place for all ranks."""
        if self.format == "bt":
            return {"blocks": self.blocks, "left": max(1, len(self.in_modes) // 2) if mega else None}
        if self.format == "ht":
            return {"leaves": self.leaves}
        if self.paired is None:  # the format's own default
            return {}
        return {"paired": self.paired} if self.format in ("cp", "tucker") else {}


Specs = FormatSpec | Sequence[FormatSpec] | None


def spec_of_layer(specs: Specs, layer: int, layers: int, factor: int) -> FormatSpec:
    """The spec of an RNN's layer, dense for None; one for all layers takes its output modes as input modes above, the first
    times `factor` (0: it stays as it is)."""
    if specs is None:
        return FormatSpec()
    if isinstance(specs, FormatSpec):
        if layer == 0 or factor == 0 or specs.format == "dense":
            return specs
        first, *others = specs.out_modes
        return replace(specs, in_modes=(factor * first, *others))
    if len(specs) != layers:
        raise ValueError(f"specs must be one for all layers or one for each of {layers}; got {len(specs)}.")
    return specs[layer]
