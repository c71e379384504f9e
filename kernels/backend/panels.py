"""Products with a packed matrix inside compiled loops: each thread multiplies rows of its own and passes over the result.

`pack` lays a matrix W [n, k], as of `nn.Linear`, out in panels of some of its rows, [panels, k, width] and zeros at the end,
so that a product x W^T reads it from end to end. With `multiply_panels` a loop over rows makes x W^T some columns at a time,
as fast as a library's product and without its threads, and goes on with them while they are in the nearest cache.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.vector import BYTES_PER_REGISTER, VECTORS_PER_TILE, multiply

BYTES_PER_PANEL_ROW = VECTORS_PER_TILE * BYTES_PER_REGISTER  # which a tile of the product holds in registers


@njit(parallel=True)
def pack(weight):
    """W [n, k] in panels [ceil(n / width), k, width]."""
    n, k = weight.shape
    width = BYTES_PER_PANEL_ROW // weight.itemsize
    panels = np.empty(((n + width - 1) // width, k, width), weight.dtype)
    for p in prange(panels.shape[0]):
        for c in range(width):
            row = p * width + c
            for i in range(k):
                panels[p, i, c] = weight[row, i] if row < n else 0
    return panels


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
