"""The max over rows that a Triton program goes through a tile at a time, and its argmax."""

from __future__ import annotations

import triton.language as tl

from dropfold.kernels.backend.triton import jit

NAN_ROWS = tl.constexpr(
    1 << 40
)  # more than there are rows: what a row's number is lowered by where its value is NaN


@jit
def take_rows(maximum, argmax, values, keep, o_m, limit):
    """Take the kept values [M, C] of rows o_m into the max [C] and its row. NaN wins, also against infinity; of equal values
    the first row has the max, as on the CPU; `limit` is above every row."""
    is_nan = values != values
    values = tl.where(is_nan, float("inf"), values)
    values = tl.where(keep, values, float("-inf"))
    tile_maximum = tl.max(values, axis=0)
    row = tl.where(is_nan, o_m[:, None] - NAN_ROWS, o_m[:, None])
    first = tl.min(tl.where(keep & (values == tile_maximum[None, :]), row, limit), axis=0)
    nan_here, nan_before = first < 0, maximum != maximum
    better = (tile_maximum > maximum) | (nan_here & (maximum == maximum))
    argmax = tl.where(better, tl.where(nan_here, first + NAN_ROWS, first), argmax)
    maximum = tl.maximum(maximum, tile_maximum)
    return tl.where(nan_here | nan_before, float("nan"), maximum), argmax
