"""What an architecture costs: multiply-adds and parameters counted on its network, milliseconds from a table.

The table has what each operation adds to the whole network's time when it alone stands there, all measured once, in turns:

    ms(architecture) = ms(original) + sum over edges of [ms(original with this one operation) - ms(original)]

An operation also changes what the next layers read, and that is in its entry as long as they are the original ones: the sum
is an estimate. The architecture that is taken is timed itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dropfold.compress.cost.times import times_of
from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.compress.transform.architecture import Space
from dropfold.compress.transform.families import network_of
from dropfold.models.operations.replace import Operations

Table = Mapping[str, Mapping[str, float]]  # edge -> operation -> milliseconds that it adds


def time_table(
    network: nn.Module, space: Space, example: Sequence[Tensor], seconds: float = 0.5
) -> dict[str, Any]:
    """{"original": ms, "added": {edge: {operation: ms}}}, of one sample."""
    whole = space.canonical(space.original.operations())
    singles = [
        (edge.name, option)
        for edge in space.original.edges
        for option in space.options[edge.name]
        if option != edge.operation
    ]
    networks = [network_of(network, {**whole, name: option}) for name, option in singles]
    # The 20th percentile: what else the machine does meets it least.
    original, *times = (t.p20 for t in times_of([network, *networks], *example, seconds=seconds))
    added: dict[str, dict[str, float]] = {e.name: {e.operation: 0.0} for e in space.original.edges}
    for (name, option), ms in zip(singles, times, strict=True):
        added[name][option] = ms - original
    return {"original": original, "added": added}


def least(space: Space, table: Table) -> float:
    """The least that all edges together add."""
    return sum(min(table[edge.name].values()) for edge in space.original.edges)


def cost_of(
    what: str, network: nn.Module, example: Sequence[Tensor], times: Mapping[str, Any] | None
) -> Callable[[Operations], float]:
    """An architecture's part of the original's cost: of its latency by the table of `times`, its multiply-adds ("macs") or
    parameters by counting."""
    if times is not None:
        return lambda operations: (
            (
                times["original"]
                + sum(times["added"][name][operation] for name, operation in operations.items())
            )
            / times["original"]
        )

    def count(one: nn.Module) -> int:
        if what == "parameters":
            return sum(p.numel() for p in one.parameters())
        return multiply_adds(work_of(one, *example))

    whole = count(network)
    return lambda operations: count(network_of(network, operations)) / whole
