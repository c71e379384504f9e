"""`python -m benchmarks.gemm`: float32 products on the CPU, torch and `dropfold.kernels.linear`, in GFLOP/s.

At the shapes of a DGCNN and a PointNet (B 8, N 1,024) and of a TT-LSTM on video (B 16, T 6): x W^T, and the two gradients
dy W and dy^T x. The two libraries run interleaved; medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from dropfold.kernels.backend import gemm as _gemm

SHAPES = [
    (8192, 64, 128),
    (8192, 128, 512),
    (8192, 128, 1024),
    (8192, 512, 1024),
    (15360, 360, 64),
    (96, 256, 1024),
]


def speed(runs: tuple[Callable[[], torch.Tensor], ...], flops: int, repetitions: int = 15) -> list[float]:
    """GFLOP/s of each of the runs, interleaved."""
    seconds: list[list[float]] = [[] for _ in runs]
    for k in range(repetitions + 2):
        for run, found in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            if k >= 2:  # two to warm up
                found.append(time.perf_counter() - start)
    return [flops / median(found) / 1e9 for found in seconds]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    from rich.console import Console
    from rich.table import Table

    from dropfold.train.storage.provenance import machine

    which = "oneDNN for large ones" if _gemm.wide() else "torch's own here, too"
    table = Table(title=f"GFLOP/s, torch / kernels.linear ({which}), {machine(torch.device('cpu'))}")
    for column in ("x [m, k]", "W [n, k]", "x W^T", "dy W", "dy^T x"):
        table.add_column(column, justify="right")
    for m, k, n in SHAPES:
        x, w, dy = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
        pairs = [
            (lambda x=x, w=w: x @ w.T, lambda x=x, w=w: _gemm.mm(x, w.T)),
            (lambda w=w, dy=dy: dy @ w, lambda w=w, dy=dy: _gemm.mm(dy, w)),
            (lambda x=x, dy=dy: dy.T @ x, lambda x=x, dy=dy: _gemm.gram(dy, x)),
        ]
        cells = ["{:.0f} / {:.0f}".format(*speed(pair, 2 * m * k * n)) for pair in pairs]
        table.add_row(f"{m:,} x {k}", f"{n:,} x {k}", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
