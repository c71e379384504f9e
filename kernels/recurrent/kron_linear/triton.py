"""kron_linear in Triton."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import all_registers, cdiv, next_power_of_2, precision
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.kron.products import (
    Order,
    flat_factors,
    right_first,
    rows_together,
    scaled,
    stages,
    tiles,
)
from dropfold.kernels.recurrent.kron.triton import kron_product
from dropfold.kernels.recurrent.kron_linear.outputs import _fake_bwd, _fake_fwd


@jit
def _kron_linear_fwd_kernel(
    p_x, p_first, p_second, p_bias, p_t, p_y, scale, shift, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    kron_product(
        p_x, P * Q, p_x, p_first, p_second, p_bias, p_t, p_y, first, tl.minimum(first + TOGETHER, batch), scale, shift,
        S, P, Q, U, V, RIGHT, SCALED, False, BIASED, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
    )  # fmt: skip


@jit
def _kron_linear_bwd_kernel(
    p_x, x_i, x_k, p_dt, p_first, scale, shift, rows, per_program,
    ROWS: tl.constexpr, K: tl.constexpr, N: tl.constexpr, SCALED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A share of the sum over rows (b, i) of x[b, i, k] dt[b, i, n]: one tile [k, n] for `per_program` of the rows."""
    o_k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    share = tl.program_id(2).to(tl.int64)
    sums = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    start = share * per_program
    for i_m in range(start, tl.minimum(start + per_program, rows), BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M).to(tl.int64)
        there = o_m < rows
        inside = there[None, :] & (o_k[:, None] < K)
        o_x = (o_m // ROWS) * (ROWS * K) + (o_m % ROWS) * x_i
        x = tl.load(p_x + o_x[None, :] + o_k[:, None] * x_k, mask=inside, other=0)
        dt = tl.load(
            p_dt + o_m[:, None] * N + o_n[None, :], mask=there[:, None] & (o_n[None, :] < N), other=0.0
        )
        if SCALED:
            x = tl.where(inside, x.to(tl.float32) * scale + shift, 0.0)
        sums = tl.dot(x.to(dt.dtype), dt, sums, input_precision=PRECISION)
    o = share * (K * N) + o_k[:, None].to(tl.int64) * N + o_n[None, :]
    tl.store(p_first + o, sums, mask=(o_k[:, None] < K) & (o_n[None, :] < N))


def kron_linear_fwd(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    y, t = _fake_fwd(x, a, c, bias, scale, shift)
    (s, p, u), (_, q, v) = a.shape, c.shape
    right, rows, _ = stages(a, c)
    together = rows_together(len(x), *rows)
    _kron_linear_fwd_kernel[(cdiv(len(x), together),)](
        *(x, *flat_factors(a, c, right), bias, t, y, float(scale), float(shift), len(x)),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, SCALED=scaled(x, scale, shift),
        BIASED=bias is not None, **tiles(a.dtype), PRECISION=precision(x), **all_registers(),
    )  # fmt: skip
    return y, t


def kron_linear_bwd(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    order = Order(a, c, right_first(a, c))
    dt = order.finish_back(dy).mT.contiguous()
    dx, _, _ = _fake_bwd(dy, x, t, a, c, scale, shift, need_x)
    if need_x:
        dx = order.begin_back(dt.mT).mul_(scale)
    k, n = order.first.shape
    rows, block = len(x) * order.p, min(64, max(16, next_power_of_2(n)))
    shares = min(64, cdiv(rows, 256))
    partial = torch.empty((shares, k, n), device=x.device, dtype=torch.float32)
    exact = a.dtype == torch.float32
    _kron_linear_bwd_kernel[(cdiv(k, 64), cdiv(n, block), shares)](
        *(x, order.q if order.right else 1, 1 if order.right else order.p, dt, partial),
        *(float(scale), float(shift), rows, cdiv(rows, shares)),
        ROWS=order.p, K=k, N=n, SCALED=scaled(x, scale, shift),
        BLOCK_M=16 if exact else 32, BLOCK_N=block, BLOCK_K=64, PRECISION=precision(x), **all_registers(),
    )  # fmt: skip
    columns = t.view(len(x), order.p * order.s, order.v).mT
    da, dc = order.gradients(partial.sum(0).to(a.dtype), order.gradient_second(columns, dy))
    return dx, da, dc
