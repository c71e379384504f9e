"""`python -m benchmarks.plan`: how each format's product x W is evaluated at the benchmarked shapes, and why.

Prints what `dropfold.models.formats.plan` chose, with multiply-adds and MiB of each way: lowered to two GEMMs, core by core,
or reconstructed. `--measure` times the three ways, forward + backward and interleaved, and says whether the choice was
the fastest, or within a quarter of it (the costs are estimates: a tie is decided by the machine).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch

from benchmarks import harness
from benchmarks.cases import rnn_steps
from benchmarks.harness import Case
from dropfold.models.formats import FormatSpec
from dropfold.models.formats.plan import Execution, Plan, plan
from dropfold.models.layers.tensor_linear import TensorLinear

TIE = 1.25
GATES = 4


@dataclass
class Options:
    """Print the plans, and time the three ways if asked."""

    measure: bool = False
    """Time each way."""
    repetitions: int = 5
    """Timed steps of each way."""
    rows: tuple[int, ...] = ()
    """Rows of x (batch times frames); default those of each shape."""
    slowest: float = 10.0
    """Ways whose cost is estimated at more than this times the chosen one are not timed."""


def entries(rows: tuple[int, ...] = ()) -> list[tuple[str, FormatSpec, int]]:
    """(name, network, rows of x) of all formats at all shapes of benchmarks.rnn, and at action video's 60 x 80 pixels."""
    by_title: dict[str, tuple[str, FormatSpec, int]] = {}
    hidden = (4, 4, 4, 4)
    action = rnn_steps.specs((6, 10, 10, 8), hidden, tt=4, tr=5, bt=4, cp=8, ht=5, ht_split=5)
    sets = [(action, 256)]
    for group in rnn_steps.shapes().values():
        sets += [(shape.ih, shape.batch * shape.frames) for shape in group]
    for specs, own in sets:
        for name, spec in specs.items():
            for number in rows or (own,):
                sizes = f"{math.prod(spec.in_modes):,} -> {GATES} x {math.prod(spec.out_modes):,}"
                title = f"{name} {sizes}, {number} rows"
                by_title[title] = (title, spec, number)
    return list(by_title.values())


def linear(spec: FormatSpec, execution: Execution | None = None) -> TensorLinear:
    """The input's matrix of an LSTM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # published ranks above the useful ones
        return TensorLinear(
            *(math.prod(spec.in_modes), GATES * math.prod(spec.out_modes), spec),
            gates=GATES, execution=execution,
        )  # fmt: skip


def step(spec: FormatSpec, rows: int, execution: Execution) -> Callable[[], Any]:
    """Forward and backward of the product in one way."""
    torch.manual_seed(0)
    layer = linear(spec, execution)
    x = rnn_steps.frames_of(1, rows, layer.in_features, False)[0]

    def run() -> None:
        layer(x).sum().backward()
        layer.zero_grad()

    return run


def measured(spec: FormatSpec, rows: int, planned: Plan, options: Options) -> dict[Execution, float]:
    """Median milliseconds of the ways worth timing."""
    most = options.slowest * planned.costs[planned.chosen].total
    ways = [way for way in get_args(Execution) if planned.costs[way].total <= most]
    cases = [
        Case(f"{spec.format}_linear", way, f"rows{rows}", "float32", partial(step, spec, rows, way))
        for way in ways
    ]
    timed = harness.measure(cases, repetitions=options.repetitions, memory=False)
    return {way: row.p50_ms for way, row in zip(ways, timed)}


def main() -> None:
    import tyro
    from rich.console import Console
    from rich.table import Table

    options = tyro.cli(Options, description=__doc__)
    table = Table(title="M multiply-adds, MiB" + (", ms forward + backward" if options.measure else ""))
    for name in ("product", "chosen", *get_args(Execution), *(["verdict"] if options.measure else [])):
        table.add_column(name)
    agree, total = 0, 0
    for title, spec, rows in entries(options.rows):
        planned = plan(linear(spec).weight, rows)
        times = measured(spec, rows, planned, options) if options.measure else {}
        ways = []
        for way in get_args(Execution):
            cost = planned.costs[way]
            time = f", {times[way]:.3g} ms" if way in times else ""
            ways.append(f"{cost.macs / 1e6:,.0f}, {cost.bytes / 2**20:,.1f}{time}")
        verdict = []
        if times:
            ratio = times[planned.chosen] / min(times.values())
            total, agree = total + 1, agree + (ratio <= TIE)
            verdict = [
                "fastest" if ratio == 1 else f"{'a tie' if ratio <= TIE else 'slower'}, {ratio:.2f} times"
            ]
        table.add_row(title, planned.chosen, *ways, *verdict)
    Console(width=140).print(table)
    if options.measure:
        print(f"the fastest, or within {TIE} times of it: {agree} of {total}")


if __name__ == "__main__":
    main()
