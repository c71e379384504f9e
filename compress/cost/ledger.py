"""What choices cost, in sums: quick enough to try thousands of them.

The work of a matrix left with some of its columns and rows needs two sums, how often its columns are multiplied and how many
rows there are, and channels of different groups take from both by themselves. An entry is what a choice takes. Exact
but in PointNet for parts, where the rows of one product are the channels of another: targets are counted on small networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from dropfold.compress.cost.work import Work
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.plan import Plan, removed


@dataclass(frozen=True)
class Entry:
    """What a choice takes from each matrix: the sum of the rows of its columns that go, and outputs; and its ranks."""

    rows: Mapping[str, float]
    out: Mapping[str, int]
    ranks: Mapping[str, int]


@dataclass(frozen=True)
class Ledger:
    """The costs of choices: multiply-adds, times what one of them takes in each matrix.

    Args:
        work: of each matrix (`work_of`).
        price: of a multiply-add of each matrix, e.g. milliseconds; 1 if none is given.
    """

    plan: Plan
    work: Mapping[str, Work]
    price: Mapping[str, float] | None = None

    def entry(self, choice: Choice) -> Entry:
        """What a choice takes."""
        rows: dict[str, float] = {}
        out: dict[str, int] = {}
        for name, kept in choice.channels.items():
            for tensor, axis, positions in removed(self.plan[name], kept):
                matrix, _, kind = tensor.rpartition(".")
                if kind != "weight" or (work := self.work.get(matrix)) is None:
                    continue
                if axis == 0:
                    out[matrix] = out.get(matrix, 0) + len(positions)
                if axis == 1 or work.channelwise:
                    rows[matrix] = rows.get(matrix, 0.0) + float(work.rows[positions].sum())
        return Entry(rows, out, choice.ranks)

    def cost(self, entries: Iterable[Entry]) -> float:
        """What is left after all of them; a rank that does not pay counts as none."""
        rows: dict[str, float] = {}
        out: dict[str, int] = {}
        ranks: dict[str, int] = {}
        for entry in entries:
            for name, lost in entry.rows.items():
                rows[name] = rows.get(name, 0.0) + lost
            for name, count in entry.out.items():
                out[name] = out.get(name, 0) + count
            ranks.update(entry.ranks)
        total = 0.0
        for name, work in self.work.items():
            left = self._sums[name] - rows.get(name, 0.0)
            macs = _macs(work, left, work.out - out.get(name, 0), ranks.get(name))
            total += macs * (1.0 if self.price is None else self.price.get(name, 0.0))
        return total

    def drop_costly_ranks(self, choice: Choice) -> Choice:
        """The choice without the ranks that do not save work, as where the matrix has lost its rows to another choice."""
        entry = self.entry(choice)
        ranks = {}
        for name, rank in choice.ranks.items():
            work = self.work[name]
            left, out = self._sums[name] - entry.rows.get(name, 0.0), work.out - entry.out.get(name, 0)
            if _macs(work, left, out, rank) < _macs(work, left, out, None):
                ranks[name] = rank
        return replace(choice, ranks=ranks)

    @cached_property
    def _sums(self) -> dict[str, float]:
        return {name: float(work.rows.sum()) for name, work in self.work.items()}


def _macs(work: Work, rows: float, out: int, rank: int | None) -> float:
    if rank is None:
        return rows if work.channelwise else rows * out
    return min(rank * (work.down_share * rows + work.up_rows * out), rows * out)
