"""Which of a method's choices meets a target: the largest one, counted or timed on the network that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from dropfold.compress.apply.apply import apply
from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.cost.times import layer_times, times_of
from dropfold.compress.cost.work import multiply_adds, parameters_of, work_of
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.plan import Plan
from dropfold.data_scripts.work.notes import say

TIMED = 16  # of the choices, the whole network among them
NEAR = 0.25  # a target that leaves less than this of the layers' time, or of the work for its time, is said to be near
# What was measured under a name, or else what measuring it gives:
Keep = Callable[[str, Callable[[], Any]], Any]


def measure_anew(name: str, measure: Callable[[], Any]) -> Any:
    """Keeps nothing."""
    return measure()


def ledger_of(plan: Plan, what: str, example: Sequence[Tensor], keep: Keep = measure_anew) -> Ledger:
    """The ledger of a target. Of a time it counts milliseconds: a layer's are shared out over its matrices by their
    multiply-adds."""
    if what == "parameters":
        return Ledger(plan, parameters_of(plan.model))
    work = work_of(plan.model, *example)
    if what == "macs":
        return Ledger(plan, work)
    return Ledger(plan, work, price_of(work, _layers(plan, example, keep)))


def say_what_stays(plan: Plan, part: float, example: Sequence[Tensor], keep: Keep = measure_anew) -> None:
    """Say how much of the time is outside of the layers and stays, and whether the target lies near it."""
    whole = keep("original", lambda: times_of([plan.model], *example)[0].p50)
    inside = min(1.0, sum(_layers(plan, example, keep).values()) / whole)
    left = max(0.0, part - (1 - inside))
    text = (
        f"--target latency {part:g}: {1 - inside:.2f} of the original's {whole:.2f} ms are outside of its layers, in "
        "searches, pools and calls, and stay."
    )
    if left < NEAR * inside:
        text += (
            f" That leaves the layers {left / inside:.2f} of their time, which may cost much accuracy: ask for a larger "
            "part, or for multiply-adds, --target macs."
        )
    say(text)


def _layers(plan: Plan, example: Sequence[Tensor], keep: Keep) -> dict[str, float]:
    found: dict[str, float] = keep("layers", lambda: layer_times(plan.model, *example))
    return found


def price_of(work: Mapping[str, Any], times: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of a multiply-add of each matrix."""
    price: dict[str, float] = {}
    for layer, ms in times.items():
        own = [name for name in work if name == layer or name.startswith(f"{layer}.")]
        total = sum(work[name].macs() for name in own)
        price |= {name: ms / max(1, total) for name in own}
    return price


def first_within(
    plan: Plan,
    choices: Sequence[Choice],
    what: str,
    part: float,
    example: Sequence[Tensor],
    keep: Keep = measure_anew,
) -> Choice:
    """The first of ever smaller choices that costs so large a part of the whole network's.

    For a time `keep` gets [part of the multiply-adds, milliseconds] of each of the choices that were timed, as "choices".

    Raises:
        ValueError: none does; the sentence names the least.
    """
    if what == "latency":
        return _first_in_time(plan, choices, part, example, keep)

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
    return choices[low]


def _first_in_time(
    plan: Plan, choices: Sequence[Choice], part: float, example: Sequence[Tensor], keep: Keep
) -> Choice:
    picked = sorted({round(i * (len(choices) - 1) / (TIMED - 1)) for i in range(TIMED)} | {0})

    def of_all() -> list[list[float]]:
        networks = [plan.model, *(apply(plan, choices[i])[0] for i in picked[1:])]
        times = [found.p50 for found in times_of(networks, *example, seconds=0.5)]
        work = [multiply_adds(work_of(network, *example)) for network in networks]
        return [[w / work[0], ms] for w, ms in zip(work, times, strict=True)]

    def beside(choice: Choice) -> list[float]:
        return [found.p50 for found in times_of([plan.model, apply(plan, choice)[0]], *example)]

    work, times = zip(*keep("choices", of_all), strict=True)
    parts = [ms / times[0] for ms in times]
    for n, i in enumerate(picked):
        if parts[n] > part:
            continue
        # Once more, side by side and for longer.
        whole, small = keep(f"the original, choice {i}", partial(beside, choices[i]))
        parts[n] = small / whole
        if parts[n] <= part:
            if work[n] < NEAR * part:
                say(
                    f"--target latency {part:g} is met with {work[n]:.3f} of the multiply-adds: most of what is left of the "
                    "time is not theirs. It may cost much accuracy: ask for a larger part, or for --target macs."
                )
            return choices[i]
    raise ValueError(
        f"--target latency {part:g} is out of reach: the original takes {times[0]:.2f} ms here, and the least that this "
        f"method comes to is {min(parts):.2f} of it."
    )


def _count(network: nn.Module, what: str, example: Sequence[Tensor]) -> int:
    if what == "parameters":
        return sum(p.numel() for p in network.parameters())
    return multiply_adds(work_of(network, *example))
