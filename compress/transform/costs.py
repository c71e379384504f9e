"""What an architecture costs: multiply-adds and parameters counted on its network, milliseconds from a table.

The table has what each operation adds to the whole network's time when it alone stands there:

    ms(architecture) = ms(original) + sum over edges of [ms(original with this one operation) - ms(original)]

An operation also changes what the next layers read, and that is in its entry as long as they are the original ones: the sum
is an estimate. It is never below the time of the network of the cheapest operations, which is measured as well, and the
architecture that is taken is timed itself.
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
from dropfold.train.tasks.scene_prediction import progress

AT_ONCE = 16  # networks that are held and timed in turns


def cheapest(space: Space) -> dict[str, str]:
    """The last option of each edge."""
    return space.canonical({name: options[-1] for name, options in space.options.items()})


def time_table(
    network: nn.Module, space: Space, example: Sequence[Tensor], seconds: float = 0.5
) -> dict[str, Any]:
    """{"original": ms, "least": ms of the cheapest, "added": {edge: {operation: ms}}}, of one sample.

    Some networks at a time take turns with the original, and what an operation adds is relative to the original among them.
    """
    whole = space.canonical(space.original.operations())
    singles: list[tuple[str, str]] = [
        (edge.name, option)
        for edge in space.original.edges
        for option in space.options[edge.name]
        if option != edge.operation
    ]
    added: dict[str, dict[str, float]] = {e.name: {e.operation: 0.0} for e in space.original.edges}
    originals = []
    with progress("operations timed", len(singles)) as advance:
        for start in range(0, len(singles), AT_ONCE):
            some = singles[start : start + AT_ONCE]
            networks = [network_of(network, space.canonical({**whole, name: o})) for name, o in some]
            # The 20th percentile: what else the machine does meets it least.
            before, *after = (t.p20 for t in times_of([network, *networks], *example, seconds=seconds))
            originals.append(before)
            for (name, option), ms in zip(some, after, strict=True):
                added[name][option] = ms / before - 1
            advance(len(some))
    original = sum(originals) / len(originals)
    both = times_of([network, network_of(network, cheapest(space))], *example, seconds=seconds)
    for operations in added.values():
        for option in operations:
            operations[option] *= original
    return {"original": original, "least": original * both[1].p20 / both[0].p20, "added": added}


def latency(space: Space, times: Mapping[str, Any], operations: Operations) -> float:
    """The estimate, as a part of the original's. What an operation brings with it, as a null those behind it, is in its own
    entry."""
    whole = space.canonical(space.original.operations())
    total, paid = times["original"], set[str]()
    for name, operation in operations.items():
        if name not in paid and operation != whole[name]:
            total += times["added"][name][operation]
            one = space.canonical({**whole, name: operation})
            paid |= {other for other in whole if other != name and one[other] != whole[other]}
    return max(total, times["least"]) / times["original"]


def cost_of(
    what: str, network: nn.Module, space: Space, example: Sequence[Tensor], times: Mapping[str, Any] | None
) -> Callable[[Operations], float]:
    """An architecture's part of the original's cost: of its latency by the table of `times`, its multiply-adds ("macs") or
    parameters by counting."""
    if times:
        return lambda operations: latency(space, times, operations)

    def count(one: nn.Module) -> int:
        if what == "parameters":
            return sum(p.numel() for p in one.parameters())
        return multiply_adds(work_of(one, *example))

    whole = count(network)
    return lambda operations: count(network_of(network, operations)) / whole
