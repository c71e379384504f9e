"""`python -m benchmarks.small_rnn`: recurrences on features, dense and as tensor trains, beside nn.LSTM and nn.GRU.

Twelve points: batches of 1 to 256, 10 and 100 frames, hidden sizes 64 to 1,024, inputs of 40 to 2,048 numbers; freed memory
stays with the process. A point is timed interleaved, forward without autograd and forward + backward; a step that takes
less than a few milliseconds is timed in calls one after another. Printed are the ratios of the medians to PyTorch's module,
below 1 where ours is faster, and the geometric mean over the points.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import harness
from benchmarks.cases.small_rnn import FORMS, POINTS, Cell, Point, cases, step
from benchmarks.harness import Row
from dropfold.train.engine.memory import keep

MIN_MILLISECONDS = 5.0  # of a timed call


def measure(cell: Cell, point: Point, backward: bool, repetitions: int) -> list[Row]:
    """Rows of one call."""
    once = step(cell, point, "nn.LSTM" if cell == "lstm" else "nn.GRU", backward, 1)
    once()
    start = time.perf_counter()
    once()
    calls = max(1, math.ceil(MIN_MILLISECONDS / 1e3 / (time.perf_counter() - start)))
    rows = harness.measure(cases(cell, point, backward, calls), repetitions=repetitions, memory=False)
    return [
        replace(row, p20_ms=row.p20_ms / calls, p50_ms=row.p50_ms / calls, p80_ms=row.p80_ms / calls)
        for row in rows
    ]


def show(rows: Sequence[Row]) -> None:
    """A table for each operation."""
    from rich.console import Console
    from rich.table import Table

    for operation in dict.fromkeys(row.operation for row in rows):
        table = Table(
            title=f"{operation}, {rows[0].machine}, medians of {rows[0].repetitions}: ours / PyTorch's"
        )
        table.add_column("shape", no_wrap=True)
        for column in ("PyTorch, ms", *FORMS):
            table.add_column(column, justify="right")
        ratios: dict[str, list[float]] = {form: [] for form in FORMS}
        for shape in dict.fromkeys(row.shape for row in rows):
            found = {
                row.provider: row.p50_ms for row in rows if (row.operation, row.shape) == (operation, shape)
            }
            if not found:
                continue
            plain = next(time for provider, time in found.items() if provider.startswith("nn."))
            for form, of_form in ratios.items():
                of_form.append(found[f"dropfold {form}"] / plain)
            table.add_row(shape, f"{plain:.3g}", *(f"{of_form[-1]:.2f}" for of_form in ratios.values()))
        means = (math.exp(sum(map(math.log, of_form)) / len(of_form)) for of_form in ratios.values())
        table.add_row("geometric mean", "", *(f"{mean:.2f}" for mean in means))
        Console(width=110).print(table)


@dataclass
class Options:
    """Time our LSTMs and GRUs of small sizes beside PyTorch's."""

    cells: tuple[Cell, ...] = ("lstm", "gru")
    """Which recurrences."""
    repetitions: int = 9
    """Timed steps of each; rows hold their quantiles."""
    points: tuple[int, ...] = tuple(range(len(POINTS)))
    """Which of the twelve points."""
    out: Path | None = None
    """A CSV file to append the rows to."""


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    if not keep():
        raise SystemExit("error: freed memory stays with the process only with glibc's malloc.")
    rows: list[Row] = []
    for cell in options.cells:
        for backward in (False, True):
            for point in (POINTS[i] for i in options.points):
                found = measure(cell, point, backward, options.repetitions)
                rows += found
                if options.out:
                    harness.append(found, options.out)
    show(rows)


if __name__ == "__main__":
    main()
