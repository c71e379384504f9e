"""kron_linear in Triton: forward is one kernel; in backward the gradient of the first matrix is, the rest is ATen's."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import all_registers, cdiv, next_power_of_2, precision
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.kron.factors import needs_scaling, right_first
from dropfold.kernels.recurrent.kron.products import KronProduct
from dropfold.kernels.recurrent.kron.triton import kron_product, plan_launch, rows_together, tile_sizes
from dropfold.kernels.recurrent.kron_linear.operation import empty_bwd_outputs, empty_fwd_outputs

ROWS_PER_PART = 256  # of the sum over rows in backward, at least; partial sums are added by ATen
MOST_PARTS = 64


def kron_linear_fwd(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    y, t = empty_fwd_outputs(x, a, c, bias, scale, shift)
    (s, p, u), (_, q, v) = a.shape, c.shape
    plan = plan_launch(a, c)
    together = rows_together(len(x), *plan.rows)
    _kron_linear_fwd_kernel[(cdiv(len(x), together),)](
        *(x, plan.first, plan.second, bias, t, y, float(scale), float(shift), len(x)),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=plan.right, SCALED=needs_scaling(x, scale, shift),
        BIASED=bias is not None, **tile_sizes(a.dtype), PRECISION=precision(x), **all_registers(),
    )  # fmt: skip
    return y, t


def kron_linear_bwd(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    product = KronProduct(a, c, right_first(a, c))
    dt = product.gradient_of_t(dy).mT.contiguous()
    dx, _, _ = empty_bwd_outputs(dy, x, t, a, c, scale, shift, need_x)
    if need_x:
        dx = product.gradient_of_x(dt.mT).mul_(scale)
    k, n = product.first.shape
    rows, block = len(x) * product.p, min(64, max(16, next_power_of_2(n)))
    parts = min(MOST_PARTS, cdiv(rows, ROWS_PER_PART))
    partial = torch.empty((parts, k, n), device=x.device, dtype=torch.float32)
    x_i, x_k = (product.q, 1) if product.right else (1, product.p)
    _kron_linear_bwd_kernel[(cdiv(k, 64), cdiv(n, block), parts)](
        *(x, x_i, x_k, dt, partial, float(scale), float(shift), rows, cdiv(rows, parts)),
        ROWS=product.p, K=k, N=n, SCALED=needs_scaling(x, scale, shift),
        BLOCK_M=16 if a.dtype == torch.float32 else 32, BLOCK_N=block, BLOCK_K=64, PRECISION=precision(x),
        **all_registers(),
    )  # fmt: skip
    columns = t.view(len(x), product.p * product.s, product.v).mT
    d_first = partial.sum(0).to(a.dtype)
    da, dc = product.gradients_of_factors(d_first, product.gradient_of_second(columns, dy))
    return dx, da, dc


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
    p_x, x_i, x_k, p_dt, p_first, scale, shift, rows, rows_per_part,
    ROWS: tl.constexpr, K: tl.constexpr, N: tl.constexpr, SCALED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sum of x[b, i, k] dt[b, i, n] over `rows_per_part` of the rows (b, i), for one tile [k, n] of `first`."""
    o_k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2).to(tl.int64)
    sums = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    start = part * rows_per_part
    stop = tl.minimum(start + rows_per_part, rows)
    for i_m in range(start, stop, BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M).to(tl.int64)
        mask_m = o_m < stop
        mask_x = mask_m[None, :] & (o_k[:, None] < K)
        o_x = (o_m // ROWS) * (ROWS * K) + (o_m % ROWS) * x_i
        x = tl.load(p_x + o_x[None, :] + o_k[:, None] * x_k, mask=mask_x, other=0)
        dt = tl.load(
            p_dt + o_m[:, None] * N + o_n[None, :], mask=mask_m[:, None] & (o_n[None, :] < N), other=0.0
        )
        if SCALED:
            x = tl.where(mask_x, x.to(tl.float32) * scale + shift, 0.0)
        sums = tl.dot(x.to(dt.dtype), dt, sums, input_precision=PRECISION)
    o = part * (K * N) + o_k[:, None].to(tl.int64) * N + o_n[None, :]
    tl.store(p_first + o, sums, mask=(o_k[:, None] < K) & (o_n[None, :] < N))
