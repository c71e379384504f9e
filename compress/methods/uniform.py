"""The same share of channels from every group, a criterion says which ones; or of the full rank from every matrix.

The rival that every allocation over layers has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence

from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.methods.criteria import Criterion
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.matrices import full_ranks
from dropfold.compress.plan.plan import Plan

Channels = dict[str, list[int]]
ALIGN = 8  # channels of a vector of the processor: other widths cost the time of the next multiple
SHARES = [i / 64 for i in range(64, 0, -1)]


def keep_share(plan: Plan, criterion: Criterion, share: float, align: int = ALIGN) -> Channels:
    """The most important `share` of the channels of each group: one at least, and a multiple of `align` where that many."""
    channels: Channels = {}
    for group in plan.groups:
        count = max(1, round(share * group.size))
        if count >= align:
            count = min(group.size, -(-count // align) * align)
        if count < group.size:
            score = criterion(plan, group)
            channels[group.name] = sorted(score.argsort(descending=True, stable=True)[:count].tolist())
    return channels


def uniform(plan: Plan, criterion: Criterion, shares: Sequence[float] = SHARES) -> list[Choice]:
    """The choices for ever smaller shares, the whole network first."""
    return _without_repeats([Choice(keep_share(plan, criterion, s)) for s in sorted(shares, reverse=True)])


def uniform_ranks(ledger: Ledger, shares: Sequence[float] = SHARES, align: int = ALIGN) -> list[Choice]:
    """The choices for ever smaller shares of the full ranks of matrices that can be two thin ones, the whole network first.

    A rank is a multiple of `align`, and a matrix has none where two thin ones cost as much as it, by the ledger.
    """
    full = {name: rank for name, rank in full_ranks(ledger.plan.model).items() if name in ledger.work}

    def at(share: float) -> Choice:
        ranks = {name: max(1, round(share * rank)) for name, rank in full.items()}
        return ledger.drop_costly_ranks(
            Choice({}, {name: -(-rank // align) * align for name, rank in ranks.items()})
        )

    return _without_repeats([Choice({}), *map(at, sorted(shares, reverse=True))])


def _without_repeats(choices: Sequence[Choice]) -> list[Choice]:
    return [choice for choice, before in zip(choices, [None, *choices[:-1]], strict=True) if choice != before]
