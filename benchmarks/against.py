"""`python -m benchmarks.against PATH`: training steps of this checkout beside those of another, an older commit say.

The ten point-cloud networks (benchmarks/cases/cloud_steps.py) at the sizes of `benchmarks.point_clouds`, and the TT-LSTM at
the published video shape of `benchmarks.rnn`. Each side is a process of its own, which runs its checkout's own code and
keeps its memory as training on a CPU does. The two take turns, one step each, so that a pair sees the machine in the same
state; which of them begins alternates. What is printed is the median over the pairs of the ratio of the two times, this
checkout's over the other's, with its 95 % interval by bootstrap, and whether both sides had the same losses, to the bit.

The other checkout runs in this Python: what it needs must be installed here. Run it on a quiet machine.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.harness import RESULTS, ROOT, append
from benchmarks.point_clouds import FULL, QUICK
from dropfold.train.storage.provenance import commit, machine

STEP = Path(__file__).parent / "cases" / "checkout_step.py"
NETWORKS = (*FULL.steps, *FULL.segmentation)
TT_LSTM = "tt_lstm"
RESAMPLES = 10_000


@dataclass
class Options:
    """Time the training steps of two checkouts in turns."""

    path: tyro.conf.Positional[Path]
    """The other checkout, with benchmarks/ in it."""
    only: tuple[str, ...] = (*NETWORKS, TT_LSTM)
    """Which networks."""
    pairs: int = 15
    """Timed steps of each side."""
    threads: int = 2
    """Threads of each side; the other one waits meanwhile."""
    quick: bool = False
    """Small sizes, to see that all runs."""
    out: Path | None = RESULTS / "against.csv"
    """A CSV file to append a row for each network to; None: none."""


@dataclass(frozen=True)
class Comparison:
    """One network: medians in milliseconds, and the median ratio of the pairs with its 95 % interval."""

    date: str
    commit: str
    other_commit: str
    machine: str
    torch: str
    network: str
    shape: str
    threads: int
    pairs: int
    p50_ms: float
    other_p50_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    same_losses: bool | None


class Side:
    """A process that makes a step in a checkout whenever it is asked to."""

    def __init__(self, checkout: Path, network: str, clouds: int, points: int, threads: int) -> None:
        self.checkout = checkout
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        environment |= {"NUMBA_NUM_THREADS": str(threads)}
        arguments = [str(n) for n in (STEP, network, clouds, points, threads)]
        self.process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            cwd=checkout, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def ask(self) -> tuple[float, str]:
        """One step: milliseconds, and the loss in words ("None" if the step does not return it)."""
        self.requests.write("step\n")
        self.requests.flush()
        milliseconds, loss = self.read().split()
        return float(milliseconds), loss

    def read(self) -> str:
        """The process's next line."""
        line = self.answers.readline()
        if not line:
            raise SystemExit(f"error: the process in {self.checkout} ended; see its message above.")
        return line

    def end(self) -> None:
        """End the process: there are no more requests."""
        self.requests.close()
        self.process.wait()
        self.answers.close()


@contextmanager
def both_sides(
    other: Path, network: str, clouds: int, points: int, threads: int
) -> Iterator[tuple[Side, Side]]:
    """The processes of this checkout and of the other, warmed up one after the other."""
    sides: list[Side] = []
    try:
        for checkout in (ROOT, other):
            sides.append(Side(checkout, network, clouds, points, threads))
            sides[-1].read()
        yield sides[0], sides[1]
    finally:
        for side in sides:
            side.end()


def size_of(network: str, quick: bool) -> tuple[int, int]:
    """Clouds and points; of the TT-LSTM its batch, and 0."""
    sizes = QUICK if quick else FULL
    known: dict[Any, tuple[int, int]] = {
        TT_LSTM: (2 if quick else 16, 0),
        **sizes.steps,
        **sizes.segmentation,
    }
    return known[network]


def compare(options: Options, network: str) -> Comparison:
    """Time one network on both sides."""
    clouds, points = size_of(network, options.quick)
    other = options.path.resolve()
    milliseconds, losses = np.empty((options.pairs, 2)), []
    with both_sides(other, network, clouds, points, options.threads) as sides:
        for pair in range(options.pairs):
            for k in (0, 1) if pair % 2 == 0 else (1, 0):
                milliseconds[pair, k], loss = sides[k].ask()
                losses.append((pair, k, loss))
    this, its = (sorted((pair, loss) for pair, k, loss in losses if k == side) for side in (0, 1))
    ratios = milliseconds[:, 0] / milliseconds[:, 1]
    low, high = interval_of_median(ratios)
    medians = np.median(milliseconds, axis=0)
    return Comparison(
        date=datetime.date.today().isoformat(),
        commit=commit(),
        other_commit=commit_of(other),
        machine=machine("cpu"),
        torch=torch.__version__,
        network=network,
        shape=f"B{clouds}-N{points}" if points else f"B{clouds}-T6",
        threads=options.threads,
        pairs=options.pairs,
        p50_ms=round(float(medians[0]), 3),
        other_p50_ms=round(float(medians[1]), 3),
        ratio=round(float(np.median(ratios)), 4),
        ratio_low=round(low, 4),
        ratio_high=round(high, 4),
        same_losses=None if this[0][1] == "None" or its[0][1] == "None" else this == its,
    )


def interval_of_median(ratios: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the median, by bootstrap over the pairs."""
    drawn = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return float(low), float(high)


def commit_of(checkout: Path) -> str:
    """The commit that a checkout stands at."""
    git = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def show(rows: list[Comparison]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    first = rows[0]
    title = f"{first.commit} beside {first.other_commit}, {first.machine}, {first.threads} threads, {first.pairs} pairs"
    table = Table(title=title)
    table.add_column("network", no_wrap=True)
    for name in ("shape", "this ms", "other ms", "this / other", "95 %", "same losses"):
        table.add_column(name, justify="right")
    for row in rows:
        same = {None: "", True: "yes", False: "no"}[row.same_losses]
        interval = f"{row.ratio_low:.3f} to {row.ratio_high:.3f}"
        times = f"{row.p50_ms:.4g}", f"{row.other_p50_ms:.4g}"
        table.add_row(row.network, row.shape, *times, f"{row.ratio:.3f}", interval, same)
    Console(width=110).print(table)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if not (options.path / "benchmarks").is_dir():
        raise SystemExit(f"error: {options.path} is no checkout: it has no benchmarks/.")
    unknown = set(options.only) - {*NETWORKS, TT_LSTM}
    if unknown:
        raise SystemExit(f"error: unknown networks {sorted(unknown)}; known are {[*NETWORKS, TT_LSTM]}.")
    torch.set_num_threads(options.threads)  # for `machine`, which names them
    rows = []
    for network in options.only:
        rows.append(compare(options, network))
        show(rows[-1:])
        if options.out:
            append(rows[-1:], options.out)
    show(rows)


if __name__ == "__main__":
    main()
