"""`python -m benchmarks.ledger`: bytes that the Triton kernels move, against the fewest that their results need.

Runs the kernels in Triton's interpreter, in a process of its own; no GPU. "least" is every input read once and every
output written once. "touched" counts an address once a launch, "issued" as often as instructions ask for it: a gather
asks for a row k times, and has it from the cache all times but the first.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gates import ledger
from kernels._noise import Noise

B, N, C, K = 2, 64, 64, 8


@dataclass(frozen=True)
class Entry:
    """One operation's books, in bytes."""

    operation: str
    least: int
    touched: int
    issued: int

    @property
    def ratio(self) -> float:
        return self.touched / self.least


def entries() -> list[Entry]:
    """The noises and edge_conv; the process must have TRITON_INTERPRET=1."""
    import kernels
    from kernels._clouds import global_idx
    from kernels._noise import draw

    edge: Any = importlib.import_module("kernels.edge_conv")
    x, idx = torch.randn(B, N, C), torch.randint(N, (B, N, K))
    p, seed, M = torch.tensor(0.3), torch.tensor(7), B * N

    def entry(name: str, fn: Callable[..., Any], *inputs: Tensor, outputs: int | None = None) -> Entry:
        book = ledger(fn)
        made = book.result if isinstance(book.result, tuple) else (book.result,)
        written = sum(t.numel() * t.element_size() for t in made)
        least = sum(t.numel() * t.element_size() for t in inputs) + (written if outputs is None else outputs)
        return Entry(name, least, book.touched_bytes, book.loaded_bytes + book.stored_bytes)

    pq, rows = torch.randn(M, 2 * C), global_idx(idx)
    none = draw(None, torch.tensor([0, N, M]), 0)
    top, where, total, *_ = edge._launch_gather(pq, rows, *none)
    cluster = draw(Noise("cluster", p, seed, rows), torch.tensor([0, N, M]), M)
    csr = 8 * (M * K + M + 1)  # the transposed graph, which backward reads instead of idx
    return [
        entry("drop_feat", lambda: kernels.drop_feat(x, p, seed=seed), x),
        entry("drop_point", lambda: kernels.drop_point(x, p, seed=seed), x),
        entry("drop_cluster", lambda: kernels.drop_cluster(x, p, idx, seed=seed), x, idx),
        entry("edge_conv forward", lambda: edge._launch_gather(pq, rows, *none), pq, rows),
        entry("edge_conv forward, noise", lambda: edge._launch_gather(pq, rows, *cluster), pq, rows),
        entry(
            "edge_conv backward",
            lambda: edge._launch_backward(pq, top, total, where, rows, torch.ones(4, C)),
            *(pq, top, total, where),
            outputs=pq.numel() * 4 + csr,
        ),
    ]


def main() -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        raise SystemExit(subprocess.call([sys.executable, "-m", "benchmarks.ledger"], env=environment))
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bytes moved, B {B}, N {N}, C {C}, k {K}, float32")
    for name in ("operation", "least", "touched", "touched / least", "issued"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for entry in entries():
        table.add_row(
            entry.operation,
            f"{entry.least:,}",
            f"{entry.touched:,}",
            f"{entry.ratio:.3f}",
            f"{entry.issued:,}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
