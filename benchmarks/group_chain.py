"""`python -m benchmarks.group_chain`: whole training steps with group_mlp_max as one compiled call a tile, and pass by pass.

On the CPU group_mlp_max has a compiled chain (compiled_chain.py there) and the same passes called one by one,
which half types and AVX-512 processors that are not Intel's need. The steps alternate, each pair in a fresh order; the
figure is the median over the pairs of passes / compiled, with a 95 % interval from order statistics, so that what else
the machine does falls on both. `--out` appends a row to a CSV file for each network and number of threads.
"""

from __future__ import annotations

import csv
import datetime
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.cases.cloud_steps import Network, Setting, make
from dropfold.kernels.group_mlp_max import compiled_chain
from dropfold.train.storage.provenance import commit, machine

SIZES: dict[Network, tuple[int, int]] = {
    "pointnet2_ssg": (8, 1024),
    "pointnet2_msg": (8, 1024),
    "pointnet2_scenes": (4, 2048),
}


@dataclass
class Options:
    """Time the networks with each of the two."""

    networks: tuple[Network, ...] = tuple(SIZES)
    """Which training steps to run."""
    threads: tuple[int, ...] = (1, 2)
    """How many threads, one row for each."""
    pairs: int = 15
    """Pairs of steps; 6 are the least that an interval of 95 % can be had from."""
    out: Path | None = None
    """A CSV file to append the rows to."""


@dataclass(frozen=True)
class Row:
    """One line of a results file: medians in milliseconds, the ratio passes / compiled and its 95 % interval."""

    date: str
    commit: str
    machine: str
    torch: str
    operation: str
    shape: str
    pairs: int
    compiled_ms: float
    passes_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


def pass_by_pass(step: Callable[[], Any]) -> Callable[[], Any]:
    """The step without the compiled chain."""

    def run() -> None:
        before = compiled_chain.routine
        compiled_chain.routine = lambda dtype: 0  # type: ignore[assignment]
        try:
            step()
        finally:
            compiled_chain.routine = before

    return run


def interval_of_median(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """The order statistics that hold the median with this probability, whatever the distribution is."""
    ordered, n = sorted(values), len(values)
    below = torch.distributions.Binomial(n, torch.tensor(0.5)).log_prob(torch.arange(n + 1)).exp().cumsum(0)
    k = max(1, int((below <= (1 - confidence) / 2).sum()))
    return ordered[k - 1], ordered[n - k]


def compare(setting: Setting, pairs: int) -> Row:
    """Alternate the two steps, each on a network of its own with the same weights."""
    steps = [make(setting, "dropfold"), pass_by_pass(make(setting, "dropfold"))]
    for step in steps:
        step()
    taken: list[list[float]] = [[], []]
    name = f"{setting.network} {setting}"
    for pair in track(range(pairs), name, console=Console(stderr=True)):
        for i in random.Random(pair).sample(range(2), 2):
            start = time.perf_counter()
            steps[i]()
            taken[i].append(1e3 * (time.perf_counter() - start))
    ratios = [passes / compiled for compiled, passes in zip(*taken, strict=True)]
    low, high = interval_of_median(ratios)
    return Row(
        date=datetime.date.today().isoformat(),
        commit=commit(),
        machine=machine(),
        torch=torch.__version__,
        operation=f"{setting.network}_step",
        shape=str(setting),
        pairs=pairs,
        compiled_ms=round(statistics.median(taken[0]), 1),
        passes_ms=round(statistics.median(taken[1]), 1),
        ratio=round(statistics.median(ratios), 3),
        ratio_low=round(low, 3),
        ratio_high=round(high, 3),
    )


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    if compiled_chain.wide() or not compiled_chain.routine(torch.float32):
        raise SystemExit(
            "error: this machine takes the passes one by one: torch has no MKL, or oneDNN is faster."
        )
    for network in options.networks:
        for threads in options.threads:
            clouds, points = SIZES[network]
            row = compare(Setting(network, clouds, points, threads=threads), options.pairs)
            interval = f"{row.ratio_low} to {row.ratio_high}"
            print(
                f"{row.operation} {row.shape}: compiled {row.compiled_ms} ms, passes {row.passes_ms} ms, "
                f"ratio {row.ratio} ({interval})",
                flush=True,
            )
            if options.out is not None:
                append(row, options.out)


def append(row: Row, path: Path) -> None:
    """Append the row to a CSV file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


if __name__ == "__main__":
    main()
