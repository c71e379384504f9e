"""`python -m benchmarks.rnn`: steps of compressed LSTMs beside the dense LSTM and their peers, in one interleaved run.

Groups (`--only`): ucf11, the published video shape (57,600 -> 256, B 16, T 6); ucf11-long, the same with T 64; cnn,
TedNet's shape on CNN features (2,048 -> 2,048); sweep, 2,048 to hidden sizes 256 to 2,048. Forward is timed without
autograd; forward + backward is a training step without optimiser. All take float32 frames, but for one of ours that
takes the same number of pixels as bytes.

The limit is that x is read once, through one GEMM (in forward; twice in a training step): the first of the two that a
tensor train lowers to. It is measured too, as a provider of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import harness
from benchmarks.cases.rnn_steps import GEMM, NEEDS, Group, Shape, cases, missing, shapes
from benchmarks.harness import Row
from dropfold.train.engine.memory import keep


def measure(shape: Shape, repetitions: int, memory: bool, providers: Sequence[str] = ()) -> list[Row]:
    """Both operations of a shape; memory is that of the training step."""
    chosen = [name for name in providers or shape.providers() if not missing(name)]
    rows = harness.measure(cases(shape, chosen, False), repetitions=repetitions, memory=False)
    return rows + harness.measure(cases(shape, chosen, True), repetitions=repetitions, memory=memory)


def show(rows: Sequence[Row]) -> None:
    """A table for each shape. "nn.LSTM /" and "tednet /" are how many times longer their training step takes, tednet's of
    the same format; "MiB /" is its memory over this; "/ limit" is the step over x through one GEMM."""
    from rich.console import Console
    from rich.table import Table

    for shape in dict.fromkeys(row.shape for row in rows):
        forward, both = (
            {row.provider: row for row in rows if row.shape == shape and row.operation == operation}
            for operation in ("lstm_forward", "lstm_forward_backward")
        )
        table = Table(title=f"{shape}, {rows[0].machine}, medians of {rows[0].repetitions}")
        table.add_column("provider", no_wrap=True)
        for column in ("forward ms", "step ms", "MiB", "nn.LSTM /", "tednet /", "MiB /", "/ limit"):
            table.add_column(column, justify="right")
        for name, row in both.items():
            tednet = both.get(" ".join(["tednet", *name.split()[1:2]]))
            table.add_row(
                name,
                _short(forward[name].p50_ms),
                _short(row.p50_ms),
                "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
                _times(both.get("nn.LSTM"), row, "p50_ms"),
                _times(tednet, row, "p50_ms"),
                _times(tednet, row, "peak_mib"),
                _times(row, both.get(GEMM), "p50_ms"),
            )
        Console(width=110).print(table)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(row: Row | None, base: Row | None, what: str) -> str:
    above, below = (getattr(r, what, None) for r in (row, base))
    return f"{above / below:.3g}" if above and below else ""


@dataclass
class Options:
    """Time our LSTMs, nn.LSTM and, where they are installed, tednet and tensorly-torch."""

    only: tuple[Group, ...] = ("ucf11", "ucf11-long", "cnn", "sweep")
    """Which groups to run."""
    providers: tuple[str, ...] = field(default_factory=tuple)
    """Which providers, by their names in the table; default all."""
    repetitions: int = 7
    """Timed steps of each; the table and the rows hold their quantiles."""
    keep_memory: bool = False
    """Let freed memory stay with the process, as training on a CPU does (train/engine/memory.py); marks shapes "-kept"."""
    memory: bool = False
    """Measure the peak memory of each training step as well, in a process of its own."""
    out: Path | None = None
    """A CSV file to append the rows to, after each shape."""


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    if options.keep_memory and not keep():
        raise SystemExit("error: --keep-memory needs glibc's malloc.")
    absent = [name for name, module in NEEDS.items() if importlib.util.find_spec(module) is None]
    if absent:
        print(f"left out, not installed: {', '.join(absent)} (docs/benchmarks.md says how)")
    for group in options.only:
        for shape in shapes()[group]:
            shape = replace(shape, kept=options.keep_memory)
            rows = measure(shape, options.repetitions, options.memory, options.providers)
            show(rows)
            if options.out:
                harness.append(rows, options.out)


if __name__ == "__main__":
    main()
