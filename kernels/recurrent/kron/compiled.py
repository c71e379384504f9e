"""Products with W = sum_s A_s (x) C_s inside compiled loops: a few rows at a time, without Python and without copies.

With x as X [p, q] and y as Y [u, v], both orders are two products of matrices that lie in memory as they are needed:

    RIGHT     T = X C      [p, S v], read again as [p S, v];     Y = A^T T,   A^T [u, p S]
    LEFT      T = A^T X    [u S, q], read again as [u, S q];     Y = T C,     C [S q, v]
    DENSE     y = x W, W in panels of as many columns as a tile has, one panel after another
    ROWS      y = x W, W as it is, one row after another

A product with W^T is a product of the other order with the same two matrices, transposed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.vector import BYTES_PER_REGISTER, VECTORS_PER_TILE, multiply, multiply_routine
from dropfold.kernels.recurrent.kron.factors import is_dense, multiply_adds, right_first

DENSE, ROWS, RIGHT, LEFT = range(4)
MIN_PACKED_ROWS = 4  # of x; fewer take less time with W as it is
ROWS_OF_W_AT_ONCE = 256  # whose pages of memory the processor finds without a search (TLB)


class Matrix(NamedTuple):
    """W [K, N] as the loops take it, and the sizes of its form; `between` numbers of T are written for one row of x."""

    form: int
    routine: int  # of `multiply`
    first: Tensor
    second: Tensor
    terms: int
    rows_in: int
    columns_in: int
    rows_out: int
    columns_out: int
    between: int


def columns_per_panel(dtype: torch.dtype) -> int:
    """Columns of a tile."""
    return VECTORS_PER_TILE * BYTES_PER_REGISTER // dtype.itemsize


def make_matrix(a: Tensor, c: Tensor, rows: int, steps: int, transposed: bool) -> Matrix:
    """W or W^T, for `steps` products of `rows` rows each: dense where two smaller products save too little."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    dense, uses = p * q * u * v, rows * steps
    if is_dense(a):
        w = c[0] if a.item() == 1 else c[0] * a[0]
    elif dense + s * dense / uses <= 2 * multiply_adds(a, c, right_first(a, c)):
        w = torch.einsum("spu,sqv->pquv", a, c).reshape(p * q, u * v)
    else:
        return pack_factors(a, c, transposed)
    return pack_dense(w.T if transposed else w, rows)


def pack_factors(a: Tensor, c: Tensor, transposed: bool) -> Matrix:
    """W or W^T as its factors, in the order that costs less for W."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    right = right_first(a, c)
    if right:
        first, second, between = (
            c.permute(1, 0, 2).reshape(q, s * v),
            a.permute(2, 1, 0).reshape(u, p * s),
            p * s * v,
        )
    else:
        first, second, between = a.permute(2, 0, 1).reshape(u * s, p), c.reshape(s * q, v), u * s * q
    if transposed:
        first, second, p, q, u, v = second.T, first.T, u, v, p, q
    form = RIGHT if right != transposed else LEFT
    return Matrix(form, multiply_routine(a.dtype), _flat(first), _flat(second), s, p, q, u, v, between)


def pack_dense(w: Tensor, rows: int) -> Matrix:
    """A matrix W [K, N] that is there already, for products of `rows` rows each."""
    (k, n), width = w.shape, columns_per_panel(w.dtype)
    if rows < MIN_PACKED_ROWS:
        return Matrix(ROWS, multiply_routine(w.dtype), _flat(w), w.new_empty(0), 1, 1, k, 1, n, 0)
    w = torch.nn.functional.pad(w, (0, -n % width)) if n % width else w
    panels = w.reshape(k, -1, width).transpose(0, 1)
    return Matrix(DENSE, multiply_routine(w.dtype), _flat(panels), w.new_empty(0), 1, 1, k, 1, n, 0)


def _flat(x: Tensor) -> Tensor:
    return x.contiguous().view(-1)


@njit
def multiply_rows(w, x, x_at, rows, out, out_at, t, unit, units, gates):
    """out = x W for `rows` rows of x: of the N / gates columns of each gate, the `units` from `unit` on (a panel's begin).

    A W that is not dense has all columns made; t holds its `between` numbers.
    """
    if w.form == RIGHT or w.form == LEFT:
        _multiply_factors(w, x, x_at, rows, out, out_at, t)
        return
    n = w.columns_out
    parts = 1 if units * gates == n else gates
    for part in range(parts):
        first = part * (n // parts) + unit
        last = first + units * gates // parts
        if w.form == ROWS:
            for i in range(rows):
                for k in range(0, w.columns_in, ROWS_OF_W_AT_ONCE):
                    multiply(
                        w.routine, x, x_at + i * w.columns_in + k, 0, 1, w.first, k * n + first, n,
                        out, out_at + i * n + first, 0, 1, min(ROWS_OF_W_AT_ONCE, w.columns_in - k), last - first, k,
                    )  # fmt: skip
        else:
            width = VECTORS_PER_TILE * BYTES_PER_REGISTER // x.itemsize
            for j in range(first, last, width):
                multiply(
                    w.routine, x, x_at, w.columns_in, 1, w.first, j * w.columns_in, width, out, out_at + j, n,
                    rows, w.columns_in, min(width, last - j), 0,
                )  # fmt: skip


@njit
def _multiply_factors(w, x, x_at, rows, out, out_at, t):
    m, k, r, n, g = w.rows_in, w.columns_in, w.rows_out, w.columns_out, w.terms
    for i in range(rows):
        x_i, out_i = x_at + i * m * k, out_at + i * r * n
        if w.form == RIGHT:
            multiply(w.routine, x, x_i, k, 1, w.first, 0, g * n, t, 0, g * n, m, k, g * n, 0)
            multiply(w.routine, w.second, 0, m * g, 1, t, 0, n, out, out_i, n, r, m * g, n, 0)
        else:
            multiply(w.routine, w.first, 0, m, 1, x, x_i, k, t, 0, k, r * g, m, k, 0)
            multiply(w.routine, t, 0, g * k, 1, w.second, 0, n, out, out_i, n, r, g * k, n, 0)
