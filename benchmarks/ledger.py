"""`python -m benchmarks.ledger`: bytes that the Triton kernels move, against the fewest that their results need.

Runs the kernels in Triton's interpreter, in a process of its own; no GPU. "least" is every input read once and every
output written once. "touched" counts an address once a launch, "issued" as often as instructions ask for it: a gather
asks for a row k times, and has it from the cache all times but the first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gates import ledger
from dropfold.kernels.noise.draw import Noise
from dropfold.kernels.norm.edge_conv import triton as edge_conv_triton
from dropfold.kernels.points.ball_query import triton as ball_query_triton
from dropfold.kernels.points.farthest_point_sample import triton as farthest_point_sample_triton
from dropfold.kernels.points.three_nn_interpolate import triton as three_nn_interpolate_triton
from dropfold.kernels.recurrent.gru_sequence import triton as gru_sequence_triton
from dropfold.kernels.recurrent.kron_linear import triton as kron_linear_triton
from dropfold.kernels.recurrent.lstm_sequence import triton as lstm_sequence_triton

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
    """The noises, edge_conv and the passes over groups; the process must have TRITON_INTERPRET=1."""
    from dropfold import kernels
    from dropfold.kernels.noise.draw import draw
    from dropfold.kernels.points.clouds import global_idx

    x, idx = torch.randn(B, N, C), torch.randint(N, (B, N, K))
    p, seed, M = torch.tensor(0.3), torch.tensor(7), B * N

    pq, rows = torch.randn(M, 2 * C), global_idx(idx)
    none = draw(None, torch.tensor([0, N, M]), 0)
    top, where, total, *_ = edge_conv_triton.edge_conv_fwd(pq, rows, *none)
    cluster = draw(Noise("cluster", p, seed, rows), torch.tensor([0, N, M]), M)
    csr = 8 * (M * K + M + 1)  # the transposed graph, which backward reads instead of idx
    return [
        entry("drop_feat", lambda: kernels.drop_feat(x, p, seed=seed), x),
        entry("drop_point", lambda: kernels.drop_point(x, p, seed=seed), x),
        entry("drop_cluster", lambda: kernels.drop_cluster(x, p, idx, seed=seed), x, idx),
        entry("edge_conv forward", lambda: edge_conv_triton.edge_conv_fwd(pq, rows, *none), pq, rows),
        entry(
            "edge_conv forward, noise", lambda: edge_conv_triton.edge_conv_fwd(pq, rows, *cluster), pq, rows
        ),
        entry(
            "edge_conv backward",
            lambda: edge_conv_triton.edge_conv_bwd(pq, top, total, where, rows, torch.ones(4, C)),
            *(pq, top, total, where),
            outputs=pq.numel() * 4 + csr,
        ),
        *of_groups(),
    ]


def of_groups() -> list[Entry]:
    """The passes of group_mlp_max that gather, take the max, and sum over the entries of each row."""
    from dropfold.kernels.group_mlp_max.entries import Entries, Tile
    from dropfold.kernels.group_mlp_max.triton_passes import OnGPU, launch_spread
    from dropfold.kernels.noise.draw import draw
    from dropfold.kernels.points.clouds import transpose_lists

    points, groups, size = B * N, 32, 16
    idx = torch.randint(points, (groups * size,))
    ptr, owner = (
        torch.arange(groups + 1) * size,
        torch.arange(groups, dtype=torch.int32).repeat_interleave(size),
    )
    e = Entries(torch.randn(points, C), torch.randn(groups, C), ptr, idx, owner, torch.empty(0))
    t, vectors, offset = Tile(0, groups, 0, groups * size), torch.randn(2, C), torch.zeros(C)
    z = OnGPU.rows(e, t, vectors, 0.0, offset)
    none = draw(None, torch.tensor([0, N, points]), 0)
    top, where = torch.empty(groups, C), torch.empty(groups, C, dtype=torch.int32)
    lists, total = transpose_lists(idx, points), torch.zeros(points, C)
    used = e.q[: len(idx.unique())]  # rows in no group are not read
    return [
        entry(
            "groups, gather",
            lambda: OnGPU.rows(e, t, vectors, 0.0, offset),
            *(used, e.p, idx, owner, vectors, offset),
        ),
        entry("groups, max", lambda: (OnGPU.highest(z, e, t, none, top, where), top, where)[1:], z, ptr),
        entry(
            "groups, sums over entries",
            lambda: launch_spread(z, None, e.count, *lists, total),
            *(z, *lists, total),
        ),
    ]


def sampling() -> list[Entry]:
    """Farthest points, balls, and interpolation both ways: what searches points reads each of them once."""
    x, ptr, start = torch.rand(B * N, 3), torch.tensor([0, N, 2 * N]), torch.zeros(B, dtype=torch.int64)
    centres, batch = x[::4].contiguous(), torch.arange(B).repeat_interleave(N // 4)
    centres_ptr, batches = ptr // 4, torch.arange(B).repeat_interleave(N)
    sizes = ball_query_triton.make_lists(x, ptr, centres, batch, 0.2, K)[1]
    idx, weight = three_nn_interpolate_triton.three_nn(centres, centres_ptr, x, ptr, 3)
    features, dout = torch.randn(B * N // 4, C), torch.randn(B * N, C)
    csr = 8 * (idx.numel() + len(features) + 1)
    return [
        entry(
            "farthest_point_sample",
            lambda: farthest_point_sample_triton.farthest_point_sample(x, ptr, start, N // 4, N),
            *(x, ptr, start),
        ),
        entry(
            "ball_query lists",
            lambda: ball_query_triton.make_lists(x, ptr, centres, batch, 0.2, K),
            *(x, ptr, centres, batch),
            outputs=4 * int(sizes.sum()) + 8 * len(sizes),
        ),
        entry(
            "three_nn",
            lambda: three_nn_interpolate_triton.three_nn(centres, centres_ptr, x, ptr, 3),
            *(centres, centres_ptr, x, batches),
        ),
        entry(
            "three_nn_interpolate forward",
            lambda: three_nn_interpolate_triton.three_nn_interpolate_fwd(features, idx, weight),
            *(features, idx, weight),
        ),
        entry(
            "three_nn_interpolate backward",
            lambda: three_nn_interpolate_triton.three_nn_interpolate_bwd(dout, idx, weight, len(features)),
            *(dout, weight),
            outputs=features.numel() * 4 + csr,
        ),
    ]


def recurrent() -> list[Entry]:
    """A Kronecker layer on bytes, and an LSTM and a GRU whose hidden matrix is a Kronecker sum, launch by launch.

    Beyond the least, a program writes and reads what stands between two GEMMs, the sums before the gates, and its states.
    """
    steps, batch, hidden = 4, 4, 64
    pixels = torch.randint(256, (32, 8 * 30), dtype=torch.uint8)
    a, c, bias = torch.randn(3, 8, 8), torch.randn(3, 30, 8), torch.randn(64)
    ua, uc, ga, gc = (0.1 * torch.randn(3, 8, n) for n in (32, 8, 24, 8))
    b_n = torch.randn(hidden)
    gx, h = torch.randn(steps, batch, 4 * hidden), torch.randn(batch, hidden)
    g3 = torch.randn(steps, batch, 3 * hidden)
    hs, cs, gates = lstm_sequence_triton.lstm_sequence_fwd(gx, ua, uc, h, h, None, None, False, True)
    g_hs, g_gates = gru_sequence_triton.gru_sequence_fwd(g3, ga, gc, b_n, h, None, None, False, True)
    dout, none = torch.randn(steps, batch, hidden), (None, None, False)
    return [
        entry(
            "kron_linear forward, bytes",
            lambda: kron_linear_triton.kron_linear_fwd(pixels, a, c, bias, 1 / 255, 0.0),
            *(pixels, a, c, bias),
        ),
        entry(
            "lstm_sequence forward",
            lambda: lstm_sequence_triton.lstm_sequence_fwd(gx, ua, uc, h, h, *none, True),
            *(gx, ua, uc, h, h),
        ),
        entry(
            "lstm_sequence backward",
            lambda: lstm_sequence_triton.lstm_sequence_bwd(dout, h, h, gates, hs, cs, ua, uc, *none),
            *(dout, h, h, gates, cs, ua, uc),
        ),
        entry(
            "gru_sequence forward",
            lambda: gru_sequence_triton.gru_sequence_fwd(g3, ga, gc, b_n, h, *none, True),
            *(g3, ga, gc, b_n, h),
        ),
        entry(
            "gru_sequence backward",
            lambda: gru_sequence_triton.gru_sequence_bwd(dout, h, g_gates, g_hs, ga, gc, b_n, *none),
            *(dout, h, g_gates, g_hs, ga, gc),
        ),
    ]


def entry(name: str, fn: Callable[..., Any], *inputs: Tensor, outputs: int | None = None) -> Entry:
    """The books of one launch function that reads `inputs` and writes what it returns, or `outputs` bytes."""
    book = ledger(fn)
    made = book.result if isinstance(book.result, tuple) else (book.result,)
    written = sum(t.numel() * t.element_size() for t in made)
    least = sum(t.numel() * t.element_size() for t in inputs) + (written if outputs is None else outputs)
    return Entry(name, least, book.touched_bytes, book.loaded_bytes + book.stored_bytes)


def main() -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        raise SystemExit(subprocess.call([sys.executable, "-m", "benchmarks.ledger"], env=environment))
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bytes moved, clouds B {B}, N {N}, C {C}, k {K}; sequences T 4, B 4, H 64; float32")
    for name in ("operation", "least", "touched", "touched / least", "issued"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for entry in entries() + sampling() + recurrent():
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
