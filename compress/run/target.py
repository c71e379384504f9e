"""Which of a method's choices meets a target: the largest one, counted or timed on the network that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dropfold.compress.apply.apply import apply
from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.cost.times import layer_times, times_of
from dropfold.compress.cost.work import multiply_adds, parameters_of, work_of
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.plan import Plan

TIMED = 16  # of the choices, the whole network among them


def ledger_of(plan: Plan, what: str, example: Sequence[Tensor]) -> tuple[Ledger, dict[str, float]]:
    """The ledger of a target, and the milliseconds of each layer if it is a time: a layer's are shared out over its matrices
    by their multiply-adds."""
    if what == "parameters":
        return Ledger(plan, parameters_of(plan.model)), {}
    work = work_of(plan.model, *example)
    if what == "macs":
        return Ledger(plan, work), {}
    times = layer_times(plan.model, *example)
    return Ledger(plan, work, price_of(work, times)), times


def price_of(work: Mapping[str, Any], times: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of a multiply-add of each matrix."""
    price: dict[str, float] = {}
    for layer, ms in times.items():
        own = [name for name in work if name == layer or name.startswith(f"{layer}.")]
        total = sum(work[name].macs() for name in own)
        price |= {name: ms / max(1, total) for name in own}
    return price


def first_within(
    plan: Plan, choices: Sequence[Choice], what: str, part: float, example: Sequence[Tensor]
) -> tuple[Choice, list[list[float]]]:
    """The first of ever smaller choices that costs so large a part of the whole network's; for a time also [part of the
    multiply-adds, milliseconds] of the choices that were timed.

    Raises:
        ValueError: none does; the sentence names the least.
    """
    if what == "latency":
        return _first_in_time(plan, choices, part, example)

    def cost(choice: Choice) -> float:
        return _count(apply(plan, choice)[0], what, example)

    whole = cost(Choice({}))
    low, high = 0, len(choices)  # costs fall along the choices: find the first one that is small enough
    while low < high:
        middle = (low + high) // 2
        if cost(choices[middle]) <= part * whole:
            high = middle
        else:
            low = middle + 1
    if low == len(choices):
        least = cost(choices[-1])
        raise ValueError(
            f"--target {what} {part:g} is out of reach: the least that this method comes to is {least / whole:.3f} of the "
            "original's."
        )
    return choices[low], []


def _first_in_time(
    plan: Plan, choices: Sequence[Choice], part: float, example: Sequence[Tensor]
) -> tuple[Choice, list[list[float]]]:
    picked = sorted({round(i * (len(choices) - 1) / (TIMED - 1)) for i in range(TIMED)} | {0})
    networks = [plan.model, *(apply(plan, choices[i])[0] for i in picked[1:])]
    times = [found.p50 for found in times_of(networks, *example, seconds=0.5)]
    work = [multiply_adds(work_of(network, *example)) for network in networks]
    table = [[w / work[0], ms] for w, ms in zip(work, times, strict=True)]
    parts = [ms / times[0] for ms in times]
    for n, (i, network) in enumerate(zip(picked, networks, strict=True)):
        if parts[n] > part:
            continue
        whole, small = times_of([plan.model, network], *example)  # once more, side by side and for longer
        parts[n] = small.p50 / whole.p50
        if parts[n] <= part:
            return choices[i], table
    raise ValueError(
        f"--target latency {part:g} is out of reach: the original takes {times[0]:.2f} ms here, and the least that this "
        f"method comes to is {min(parts):.2f} of it."
    )


def _count(network: nn.Module, what: str, example: Sequence[Tensor]) -> int:
    if what == "parameters":
        return sum(p.numel() for p in network.parameters())
    return multiply_adds(work_of(network, *example))
