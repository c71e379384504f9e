"""kron_linear on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.recurrent.kron.products import Order, right_first, scaled
from dropfold.kernels.recurrent.kron_linear.outputs import _fake_bwd, _fake_fwd

CHUNK = 1 << 20  # numbers of x that the CPU takes at a time: 4 MiB of float32 stay in the cache


def _chunks(x: Tensor, scale: float, shift: float, order: Order) -> Any:
    """`(start, stop, x'[start:stop])` in pieces that stay in the cache with all that is made of them, or, where the first
    factor is larger than that, are as large: its gradient is written once for each piece."""
    rows, dtype = max(1, max(CHUNK, order.first.numel()) // x.shape[1]), order.first.dtype
    buffer = x.new_empty((min(rows, len(x)), x.shape[1]), dtype=dtype) if scaled(x, scale, shift) else None
    for start in range(0, len(x), rows):
        piece = x[start : start + rows]
        if buffer is not None:
            piece = buffer[: len(piece)].copy_(piece).mul_(scale).add_(shift)
        yield start, start + len(piece), piece


def kron_linear_fwd(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    y, t = _fake_fwd(x, a, c, bias, scale, shift)
    order = Order(a, c, right_first(a, c))
    columns = t.view(len(x), order.v, order.p * order.s)
    for start, stop, piece in _chunks(x, scale, shift, order):
        columns[start:stop] = order.begin(piece)
        y[start:stop] = order.finish(columns[start:stop])
    return (y if bias is None else y.add_(bias)), t


def kron_linear_bwd(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    order = Order(a, c, right_first(a, c))
    dx, _, _ = _fake_bwd(dy, x, t, a, c, scale, shift, need_x)
    first = torch.zeros_like(order.first, dtype=accumulator(a.dtype))
    for start, stop, piece in _chunks(x, scale, shift, order):
        dt = order.finish_back(dy[start:stop])
        first += order.gradient_first(piece, dt)
        if need_x:
            dx[start:stop] = order.begin_back(dt).mul_(scale)
    da, dc = order.gradients(first.to(a.dtype), order.gradient_second(t, dy))
    return dx, da, dc
