r"""A linear layer whose weight is a sum of Kronecker products, and whose input may be bytes.

    y = x' W + bias,   W = sum_s A_s (x) C_s,   x' = scale x + shift
    Y = sum_s A_s^T X' C_s,   x' as X' [p, q], y as Y [u, v], A [S, p, u], C [S, q, v]

Two GEMMs, the cheaper order of the two: T_s = X' C_s and Y = sum_s A_s^T T_s (p q S v + p S u v multiply-adds), or A first.
Low rank W = P Q is A = P [S, M, 1], C = Q [S, 1, N]. A uint8 x is read as bytes and scaled on the way into the first
product, so that pixels are never stored as floats. With D_s = A_s dY:

    dC_s = X'^T D_s,   dA_s = T_s dY^T,   dX = scale sum_s D_s C_s^T,   dbias = sum dy

Forward keeps T (S v / q of x) for dA. Limit: x is read once in forward and once in backward; at video sizes (57,600 to
1,024, S 4) the first product is 85 % of the multiply-adds.

Sources: Kronecker-cut form of matrix networks: Van Loan & Pitsianis 1993; KCP-RNN: Wang et al. 2020 (arXiv 2008.09342).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import linear, product_dtype
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import accumulator, all_registers, cdiv, jit, next_power_of_2, precision
from dropfold.kernels.recurrent.kron import (
    Order,
    check_input,
    check_kron,
    flat_factors,
    is_dense,
    kron_product,
    right_first,
    rows_together,
    scaled,
    stages,
    tiles,
)

if TYPE_CHECKING:
    import triton.language as tl

CHUNK = 1 << 20  # numbers of x that the CPU takes at a time: 4 MiB of float32 stay in the cache


# --- CPU ---------------------------------------------------------------------------------------------------------


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


def _cpu_fwd(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    y, t = _fake_fwd(x, a, c, bias, scale, shift)
    order = Order(a, c, right_first(a, c))
    columns = t.view(len(x), order.v, order.p * order.s)
    for start, stop, piece in _chunks(x, scale, shift, order):
        columns[start:stop] = order.begin(piece)
        y[start:stop] = order.finish(columns[start:stop])
    return (y if bias is None else y.add_(bias)), t


def _cpu_bwd(
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


# --- Triton ------------------------------------------------------------------------------------------------------


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


def _launch_fwd(
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


def _launch_bwd(
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


# --- operators, autograd, public function ------------------------------------------------------------------------


def _fake_fwd(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    """y, and t in an order of the implementation's own."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    between = p * s * v if right_first(a, c) else q * s * u
    return a.new_empty((x.shape[0], u * v)), a.new_empty((x.shape[0], between))


def _fake_bwd(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(x.shape if need_x else (0,)), torch.empty_like(a), torch.empty_like(c)


_fwd = operator(
    "kron_linear_fwd(Tensor x, Tensor a, Tensor c, Tensor? bias, float scale, float shift) -> (Tensor, Tensor)",
    cpu=_cpu_fwd,
    triton=_launch_fwd,
    fake=_fake_fwd,
)
_bwd = operator(
    "kron_linear_bwd(Tensor dy, Tensor x, Tensor t, Tensor a, Tensor c, float scale, float shift, bool need_x) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_cpu_bwd,
    triton=_launch_bwd,
    fake=_fake_bwd,
)


class _KronLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
    ) -> Tensor:
        y, t = _fwd(x, a, c, bias, scale, shift)
        ctx.save_for_backward(x, t, a, c)
        ctx.options = (scale, shift)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dy = dy.contiguous()
        dx, da, dc = _bwd(dy, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad[0])
        dbias = dy.sum(0) if ctx.needs_input_grad[3] else None
        return dx if ctx.needs_input_grad[0] else None, da, dc, dbias, None, None


def kron_linear(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None = None, *, scale: float = 1.0, shift: float = 0.0
) -> Tensor:
    """Linear layer with W = sum_s a_s (x) c_s; see the head of this file for the formula.

    Args:
        x: [..., p q], floating point, or uint8 (read as bytes, and never stored as floats).
        a, c: [S, p, u] and [S, q, v].
        bias: [u v] or None.
        scale, shift: the layer sees scale x + shift.

    Returns:
        [..., u v], in the type of a (under autocast, in its type).

    Raises:
        ValueError: shapes do not fit, or x has no rows.
        TypeError: x is neither floating point nor uint8.
    """
    rows, columns = check_kron(a, c)
    check_input(x, rows)
    if bias is not None and bias.shape != (columns,):
        raise ValueError(f"bias must be [{columns}]; got {describe(bias)}.")
    dtype = product_dtype(a)
    flat = x.reshape(-1, rows).contiguous()
    flat = flat if flat.dtype == torch.uint8 else flat.to(dtype)
    bias = None if bias is None else bias.to(dtype).contiguous()
    if is_dense(a):  # plain GEMMs, made by others
        y = linear(
            flat.to(dtype) * scale + shift if scaled(x, scale, shift) else flat, (a * c)[0].T.to(dtype), bias
        )
    else:
        y = _KronLinear.apply(flat, a.to(dtype), c.to(dtype), bias, float(scale), float(shift))
    return y.view(*x.shape[:-1], columns)
