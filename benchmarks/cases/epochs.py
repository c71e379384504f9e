"""Whole epochs of training on furniture as `dropfold train` runs them, and what drawing their batches takes of it.

The share of an epoch that is spent in its steps is one minus the ratio of the two. Every shape is in an epoch, less than
a batch left out, so a loop that wastes no time takes as long whatever the batch, and grows with the points as its steps do.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Case
from dropfold.train.config.configs import CloudConfig
from dropfold.train.config.recipes import recipe
from dropfold.train.engine.run import Run


def cases(network: str, batch: int, points: int) -> list[Case]:
    """One epoch of the recipe at these sizes, and the same batches drawn and dropped."""
    return [
        Case(f"{network}_epoch", provider, f"B{batch}-N{points}", "float32", partial(make, network, batch, points, provider),
             memory=False)
        for provider in ("dropfold", "drawing alone")
    ]  # fmt: skip


def make(network: str, batch: int, points: int, provider: str) -> Callable[[], Any]:
    """What is timed; nothing is written, and nothing validates."""
    base = recipe("furniture-pointnet" if network == "pointnet" else "furniture")
    assert isinstance(base, CloudConfig)
    folder = Path(tempfile.mkdtemp())
    run = Run(replace(base, batch_size=batch, points=points, train_on_validation=True, out=folder / "run"))
    shutil.rmtree(folder)
    if provider == "dropfold":
        return lambda: run._epoch(lambda: None)
    return lambda: sum(1 for _ in run.task.batches(run.data.train, run.config, 0))


def all_cases(batches: tuple[int, ...], points: tuple[int, ...]) -> Iterator[list[Case]]:
    """Both networks; every batch at the recipe's points, the recipe's batch at all points."""
    for network in ("pointnet", "dgcnn"):
        for size in dict.fromkeys([*((b, 512) for b in batches), *((16, n) for n in points)]):
            yield cases(network, *size)
