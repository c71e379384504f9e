"""A matrix as itself, with a format's interface: what every other format is compared with."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from dropfold.models.formats.network import Format, Kron


class Dense(Format):
    """One core, W [M, N]; as a Kronecker product, 1 (x) W."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__((rows,), (columns,), [("i0", "j0")], {}, [])

    @classmethod
    def from_dense(cls, weight: Tensor, *_: Any, **__: Any) -> Self:
        """W itself, with no error."""
        return cls(*weight.shape).load([weight], weight)

    def lower(self) -> Kron:
        """1 (x) W."""
        core = self.cores[0]
        return Kron(core.new_ones(1, 1, 1), core[None])

    def to_dense(self) -> Tensor:
        """W."""
        return self.cores[0]
