"""Products with a packed matrix inside compiled loops: each thread multiplies rows of its own and passes over the result.

`pack` lays a matrix W [n, k], as of `nn.Linear`, out in panels of some of its rows, [panels, k, width] and zeros at the end,
so that a product x W^T reads it from end to end. With `multiply_panels` a loop over rows makes x W^T some columns at a time,
as fast as a library's product and without its threads, and goes on with them while they are in the nearest cache.

A loop that is written with `pack`, `take_rows` and `multiply_rows` also takes integer weights, int8 or int16: rows of x are
then rounded to 8 bits first, and products are sums of integers (`integers.py`). Which, numba decides by the type of W.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange, types
from numba.extending import overload

from dropfold.kernels.backend import integers, vector
from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.vector import BYTES_PER_REGISTER, VECTORS_PER_TILE, multiply

BYTES_PER_PANEL_ROW = VECTORS_PER_TILE * BYTES_PER_REGISTER  # which a tile of the product holds in registers
WIDTH_OF_INTEGERS = BYTES_PER_PANEL_ROW // 4  # their sums have 32 bits


@njit(parallel=True)
def pack(weight):
    """W [n, k] in panels [ceil(n / width), k, width]; of integers [ceil(n / width), ceil(k / 2), width, 2]."""
    n, k = weight.shape
    panels = _empty_panels(weight, n, k)
    width = panels.shape[2]
    for p in prange(panels.shape[0]):
        _fill_panel(panels[p], weight, p * width)
    return panels


def _empty_panels(weight, n, k):
    """Memory for the panels of W [n, k]."""


@overload(_empty_panels)
def _empty_panels_of(weight, n, k):
    if isinstance(weight.dtype, types.Integer):
        return lambda weight, n, k: np.zeros(
            ((n + WIDTH_OF_INTEGERS - 1) // WIDTH_OF_INTEGERS, (k + 1) // 2, WIDTH_OF_INTEGERS, 2), np.int16
        )

    def of_numbers(weight, n, k):
        width = BYTES_PER_PANEL_ROW // weight.itemsize
        return np.empty(((n + width - 1) // width, k, width), weight.dtype)

    return of_numbers


def _fill_panel(panel, weight, first):
    """Write rows of W from `first` on into a panel."""


@overload(_fill_panel)
def _fill_panel_of(panel, weight, first):
    def of_integers(panel, weight, first):
        n, k = weight.shape
        for c in range(min(panel.shape[1], n - first)):
            for i in range(k):
                panel[i // 2, c, i % 2] = weight[first + c, i]

    def of_numbers(panel, weight, first):
        n, k = weight.shape
        for c in range(panel.shape[1]):
            for i in range(k):
                panel[i, c] = weight[first + c, i] if first + c < n else 0

    return of_integers if isinstance(weight.dtype, types.Integer) else of_numbers


def view_panels(flat, count, inner, width):
    """`count` panels that lie one after another in memory, of a matrix with `inner` columns."""


@overload(view_panels)
def _view_panels_of(flat, count, inner, width):
    def of_integers(flat, count, inner, width):
        return flat.reshape(count, (inner + 1) // 2, width, 2)

    def of_numbers(flat, count, inner, width):
        return flat.reshape(count, inner, width)

    return of_integers if isinstance(flat.dtype, types.Integer) else of_numbers


def take_rows(x, first, rows, panels):
    """Rows of x [M, k] as `multiply_rows` takes them: rounded, with their scales, if the panels are of integers."""


@overload(take_rows)
def _take_rows_of(x, first, rows, panels):
    if isinstance(panels.dtype, types.Integer):
        return lambda x, first, rows, panels: integers.round_rows(x, first, rows)
    return lambda x, first, rows, panels: (x, first)


def multiply_rows(routine, taken, rows, panels, begin, end, out, out_row):
    """`multiply_panels` of rows that `take_rows` gave."""


@overload(multiply_rows)
def _multiply_rows_of(routine, taken, rows, panels, begin, end, out, out_row):
    def of_integers(routine, taken, rows, panels, begin, end, out, out_row):
        numbers, scales = taken
        pairs, width = panels.shape[1], panels.shape[2]
        flat, packed = numbers.reshape(-1), panels.reshape(-1)
        for p in range(begin, end):
            integers.multiply(
                routine, flat, 0, 2 * pairs, scales, 0, packed, 2 * p * pairs * width, 2 * width,
                out, (p - begin) * width, out_row, rows, pairs,
            )  # fmt: skip

    def of_numbers(routine, taken, rows, panels, begin, end, out, out_row):
        x, first = taken
        multiply_panels(routine, x, first, rows, panels, begin, end, out, out_row)

    return of_integers if isinstance(panels.dtype, types.Integer) else of_numbers


def routine_for(weight: torch.Tensor) -> int:
    """The address of the product's code for panels of W: that of its type, or of integers."""
    if weight.is_floating_point():
        return vector.multiply_routine(weight.dtype)
    return integers.multiply_routine()


@njit
def multiply_panels(routine, x, first, rows, panels, begin, end, out, out_row):
    """Rows first .. first + rows - 1 of x [M, k] times the panels begin .. end - 1, with all their columns, to `out`, which
    is flat and has its rows `out_row` apart."""
    k, width = panels.shape[1], panels.shape[2]
    flat, packed = x.reshape(-1), panels.reshape(-1)
    for p in range(begin, end):
        multiply(
            routine, flat, first * k, k, 1, packed, p * k * width, width,
            out, (p - begin) * width, out_row, rows, k, width, 0,
        )  # fmt: skip
