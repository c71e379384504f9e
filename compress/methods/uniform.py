"""The same share of channels from every group, as many as a target asks for; a criterion says which ones.

The rival that every allocation over layers has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dropfold.compress.methods.criteria import Criterion
from dropfold.compress.plan.plan import Plan

Channels = dict[str, list[int]]
Cost = Callable[[Mapping[str, Sequence[int]]], float]
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


def choose_uniform(
    plan: Plan,
    criterion: Criterion,
    cost: Cost,
    most: float,
    shares: Sequence[float] = SHARES,
    align: int = ALIGN,
) -> Channels:
    """The largest of the `shares` whose `cost` is at most `most`.

    Raises:
        ValueError: none is; the sentence names the least.
    """
    least = float("inf")
    for share in sorted(shares, reverse=True):
        channels = keep_share(plan, criterion, share, align)
        found = cost(channels)
        if found <= most:
            return channels
        least = min(least, found)
    raise ValueError(
        f"the target, {most:g}, is out of reach: the least that these channels can come to is {least:g}."
    )
