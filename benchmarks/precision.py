"""`python -m benchmarks.precision RUN...`: trained runs in float32, int8 and bf16: accuracy, and time beside float32.

Accuracy is over the run's test split with Wilson's 95 % interval; a difference to float32 is paired by sample, with a
bootstrap interval. `same` is the share of all samples of the file (training ones, too) of which the class is the same as
in float32. Times are of logits of one cloud and of a batch, the three one after another in a fresh order, again and
again; the ratio is the median over the rounds of the time to float32's, with a 95 % interval by bootstrap. bf16 is slow
on a processor without instructions for it; `--precisions int8` leaves it out.
"""

from __future__ import annotations

import datetime
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks import harness
from dropfold.models.layers.precision import Precision, lower_precision
from dropfold.train.compare.outcomes import bootstrap
from dropfold.train.data.splits import Split
from dropfold.train.engine.memory import keep
from dropfold.train.scoring.intervals import wilson
from dropfold.train.scoring.logits import predict
from dropfold.train.storage.provenance import commit, machine
from dropfold.train.tasks.registry import CLASSIFYING
from dropfold.train.tasks.trained import Trained


@dataclass
class Options:
    """Score and time runs in fewer bits."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs that classify point clouds."""
    precisions: tuple[Precision, ...] = ("int8", "bf16")
    """Which beside float32."""
    batches: tuple[int, ...] = (1, 32)
    """Clouds of a call that is timed."""
    rounds: int = 15
    """Timed calls of each."""
    out: Path | None = None
    """A CSV file to append the rows to."""


@dataclass(frozen=True)
class Row:
    """One line of a results file: a figure of a run in a precision, its interval, and float32's figure."""

    date: str
    commit: str
    machine: str
    torch: str
    network: str
    recipe: str
    precision: str
    figure: str
    samples: int
    value: float
    low: float
    high: float
    float32: float


def accuracy_rows(trained: Trained, networks: dict[str, nn.Module], about: dict[str, Any]) -> list[Row]:
    """Accuracy on the test split, its difference to float32's, and the share of equal classes."""
    task, config = CLASSIFYING[trained.config.task], trained.config
    splits: list[Any] = [
        split for split in (trained.data.test, trained.data.train, trained.data.validation) if len(split)
    ]
    inputs = [
        torch.cat(parts) for parts in zip(*(task.inputs(split, config) for split in splits), strict=True)
    ]
    test: Split = splits[0]
    said = {name: predict(network, tuple(inputs)).argmax(1) for name, network in networks.items()}
    right = {name: (found[: len(test)] == test.label).numpy() for name, found in said.items()}
    plain = right["float32"]
    rows = []
    for name, found in said.items():
        hits, own = int(right[name].sum()), right[name].astype(float) - plain

        def add(
            figure: str, samples: int, value: float, low: float, high: float, beside: float, name: str = name
        ) -> None:
            rows.append(
                Row(
                    **about,
                    precision=name,
                    figure=figure,
                    samples=samples,
                    value=value,
                    low=low,
                    high=high,
                    float32=beside,
                )
            )

        add("accuracy", len(plain), hits / len(plain), *wilson(hits, len(plain)), float(plain.mean()))
        if name == "float32":
            continue
        low, high = (
            bootstrap(lambda chosen, axis=-1, own=own: own[chosen].mean(-1), len(own))
            if own.any()
            else (0.0, 0.0)
        )
        add("difference", len(plain), float(own.mean()), low, high, 0.0)
        same = int((found == said["float32"]).sum())
        add("same", len(found), same / len(found), *wilson(same, len(found)), 1.0)
    return rows


def time_rows(x: Tensor, networks: dict[str, nn.Module], rounds: int, about: dict[str, Any]) -> list[Row]:
    """The time of a call of each network, beside float32's."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for network in networks.values():
            network(x)
        for i in range(rounds):
            for name in random.Random(i).sample(list(networks), len(networks)):
                networks[name](x)  # threads of others come to rest
                start = time.perf_counter()
                networks[name](x)
                times[name].append(1e3 * (time.perf_counter() - start))
    plain, rows = np.array(times["float32"]), []
    for name, milliseconds in times.items():
        ratio = np.array(milliseconds) / plain
        drawn = np.random.default_rng(0).integers(rounds, size=(2_000, rounds))
        low, high = np.quantile(np.median(ratio[drawn], 1), [0.025, 0.975])
        figure = f"time-B{len(x)}-N{x.shape[1]}"
        rows.append(
            Row(
                **about,
                precision=name,
                figure=f"{figure}-ms",
                samples=rounds,
                value=float(np.median(milliseconds)),
                low=min(milliseconds),
                high=max(milliseconds),
                float32=float(np.median(plain)),
            )
        )
        if name != "float32":
            rows.append(
                Row(
                    **about,
                    precision=name,
                    figure=f"{figure}-ratio",
                    samples=rounds,
                    value=float(np.median(ratio)),
                    low=float(low),
                    high=float(high),
                    float32=1.0,
                )
            )
    return rows


def measure(run: Path, options: Options) -> list[Row]:
    """The rows of one run."""
    trained = Trained.of(run)
    if trained.config.task != "clouds":
        raise SystemExit(
            f"error: {run} is a run on {trained.config.task}; give runs that classify point clouds."
        )
    plain = trained.network.cpu()
    networks: dict[str, nn.Module] = {"float32": plain}
    for precision in options.precisions:
        networks[precision] = lower_precision(plain, precision)
        print(f"{run}: {networks[precision].describe()}", flush=True)  # type: ignore[operator]
    about = {
        "date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine("cpu"), "torch": torch.__version__,
        "network": type(plain).__name__, "recipe": trained.config.recipe,
    }  # fmt: skip
    rows = accuracy_rows(trained, networks, about)
    x = CLASSIFYING["clouds"].inputs(trained.data.test, trained.config)[0]
    for batch in options.batches:
        rows += time_rows(x[:batch], networks, options.rounds, about)
    return rows


def show(rows: list[Row]) -> None:
    """A line a row."""
    for row in rows:
        unit, factor = ("%", 100) if row.figure in ("accuracy", "difference", "same") else ("", 1)
        figures = f"{factor * row.value:.2f} {unit} ({factor * row.low:.2f} to {factor * row.high:.2f})"
        print(
            f"{row.network} {row.recipe}, {row.precision}: {row.figure} {figures}, n {row.samples}",
            flush=True,
        )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep()
    for run in options.runs:
        rows = measure(run, options)
        show(rows)
        if options.out:
            harness.append(rows, options.out)


if __name__ == "__main__":
    main()
