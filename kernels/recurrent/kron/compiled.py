"""Products with W = sum_s A_s (x) C_s inside compiled loops: a few rows at a time, without Python and without copies.

With x as X [p, q] and y as Y [u, v], both orders are two products of matrices that lie in memory as they are needed:

    RIGHT     T = X C      [p, S v], read again as [p S, v];     Y = A^T T,   A^T [u, p S]
    LEFT      T = A^T X    [u S, q], read again as [u, S q];     Y = T C,     C [S q, v]
    DENSE     y = x W, W in panels of as many columns as a tile has, one panel after another
    ROWS      y = x W, W as it is: for so few rows that W would be packed for longer than it is used

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
MIN_USES = 24  # of a packed W, in tiles of rows; fewer take less time than the packing
ROWS_AT_ONCE = 8  # of W in one pass over y


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
        w = (c * a)[0]
    elif dense + s * dense / uses <= 2 * multiply_adds(a, c, right_first(a, c)):
        w = torch.einsum("spu,sqv->pquv", a, c).reshape(p * q, u * v)
    else:
        return pack_factors(a, c, transposed)
    return pack_dense(w.T if transposed else w, rows, steps)


def pack_factors(a: Tensor, c: Tensor, transposed: bool) -> Matrix:
    """W or W^T as its factors, in the order that costs less for W."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    right = right_first(a, c)
    if right:
        first, second, between = c.permute(1, 0, 2).reshape(q, s * v), a.permute(2, 1, 0).reshape(u, p * s), p * s * v
    else:
        first, second, between = a.permute(2, 0, 1).reshape(u * s, p), c.reshape(s * q, v), u * s * q
    if transposed:
        first, second, p, q, u, v = second.T, first.T, u, v, p, q
    form = RIGHT if right != transposed else LEFT
    return Matrix(form, multiply_routine(a.dtype), _flat(first), _flat(second), s, p, q, u, v, between)


def pack_dense(w: Tensor, rows: int, steps: int) -> Matrix:
    """A matrix W [K, N] that is there already."""
    (k, n), width = w.shape, columns_per_panel(w.dtype)
    if rows < 4 and rows * steps < MIN_USES:
        return Matrix(ROWS, 0, _flat(w), w.new_empty(0), 1, 1, k, 1, n, 0)
    w = torch.nn.functional.pad(w, (0, -n % width)) if n % width else w
    panels = w.reshape(k, -1, width).transpose(0, 1)
    return Matrix(DENSE, multiply_routine(w.dtype), _flat(panels), w.new_empty(0), 1, 1, k, 1, n, 0)


def _flat(x: Tensor) -> Tensor:
    return x.contiguous().view(-1)


@njit
def multiply_columns(w, x, x_at, rows, out, out_at, first, last):
    """Columns first .. last - 1 of out = x W of a dense W; `first` begins a panel."""
    k, n = w.columns_in, w.columns_out
    if w.form == ROWS:
        for i in range(rows):
            _multiply_row(w.first, x, x_at + i * k, k, n, out, out_at + i * n, first, last)
        return
    width = VECTORS_PER_TILE * BYTES_PER_REGISTER // x.itemsize
    for j in range(first, last, width):
        multiply(
            w.routine, x, x_at, k, 1, w.first, j * k, width, out, out_at + j, n, rows, k, min(width, last - j), 0
        )


@njit(fastmath={"contract"})
def _multiply_row(w, x, x_at, k, n, out, out_at, first, last):
    """Some columns of a row, by rows of W, which are read one after another as they lie."""
    y = out[out_at + first : out_at + last]
    y[:] = 0
    i = 0
    while k - i >= 8:
        x0, x1, x2, x3 = x[x_at + i], x[x_at + i + 1], x[x_at + i + 2], x[x_at + i + 3]
        x4, x5, x6, x7 = x[x_at + i + 4], x[x_at + i + 5], x[x_at + i + 6], x[x_at + i + 7]
        at = i * n + first
        for j in range(last - first):
            m = at + j
            y[j] += (
                x0 * w[m] + x1 * w[m + n] + x2 * w[m + 2 * n] + x3 * w[m + 3 * n]
                + x4 * w[m + 4 * n] + x5 * w[m + 5 * n] + x6 * w[m + 6 * n] + x7 * w[m + 7 * n]
            )  # fmt: skip
        i += 8
    while i < k:
        for j in range(last - first):
            y[j] += x[x_at + i] * w[i * n + first + j]
        i += 1


@njit
def multiply_rows(w, x, x_at, rows, out, out_at, t):
    """out = x W for `rows` rows of x; t holds `between` numbers."""
    if w.form == DENSE or w.form == ROWS:
        multiply_columns(w, x, x_at, rows, out, out_at, 0, w.columns_out)
        return
    m, k, r, n, g = w.rows_in, w.columns_in, w.rows_out, w.columns_out, w.terms
    for i in range(rows):
        x_i, out_i = x_at + i * m * k, out_at + i * r * n
        if w.form == RIGHT:
            multiply(w.routine, x, x_i, k, 1, w.first, 0, g * n, t, 0, g * n, m, k, g * n, 0)
            multiply(w.routine, w.second, 0, m * g, 1, t, 0, n, out, out_i, n, r, m * g, n, 0)
        else:
            multiply(w.routine, w.first, 0, m, 1, x, x_i, k, t, 0, k, r * g, m, k, 0)
            multiply(w.routine, t, 0, g * k, 1, w.second, 0, n, out, out_i, n, r, g * k, n, 0)
