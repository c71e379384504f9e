"""One side of `python -m benchmarks.against`: a training step of the checkout that this process runs in.

`python checkout_step.py NETWORK CLOUDS POINTS THREADS` is a script and no module. The checkout, which may be an older one,
is its working folder and on PYTHONPATH: all it imports is that checkout's own. It warms up and prints "ready"; then for
each line of standard input it makes a step and prints its milliseconds and its loss.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

WARM_UP_STEPS = 3  # they compile the numba kernels, and fill the memory that later steps use again


def training_step(network: str, clouds: int, points: int) -> Callable[[], Any]:
    """The step of the checkout's own benchmarks, wherever it keeps them."""
    in_folder = importlib.util.find_spec("benchmarks.cases") is not None  # older checkouts have none
    cloud_steps = importlib.import_module(
        "benchmarks.cases.cloud_steps" if in_folder else "benchmarks.cloud_steps"
    )
    rnn_steps = importlib.import_module("benchmarks.cases.rnn_steps" if in_folder else "benchmarks.rnn")
    module = sys.modules[cloud_steps.PointNet.__module__]
    if not Path(str(module.__file__)).is_relative_to(Path.cwd()):
        raise SystemExit(f"error: in {Path.cwd()} the networks were imported from {module.__file__}.")
    if network != "tt_lstm":
        return cloud_steps.make(cloud_steps.Setting(network, clouds, points), "dropfold")
    shape = replace(rnn_steps.shapes()["ucf11"][0], batch=clouds)
    return rnn_steps.step(shape, "dropfold tt", backward=True)


def keep_freed_memory() -> None:
    """As training on a CPU does, by the checkout's own function."""
    from benchmarks import rnn

    if not rnn.keep():
        print("freed memory goes back to the system: this is not glibc.", file=sys.stderr)


def main() -> None:
    network, (clouds, points, threads) = sys.argv[1], map(int, sys.argv[2:])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(threads)
    keep_freed_memory()
    step = training_step(network, clouds, points)
    for _ in range(WARM_UP_STEPS):
        step()
    print("ready", file=answers)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step()
        milliseconds = 1e3 * (time.perf_counter() - start)
        print(milliseconds, None if loss is None else float(loss), file=answers)


if __name__ == "__main__":
    main()
