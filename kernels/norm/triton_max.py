"""The max over rows that a Triton program goes through a tile at a time, and its argmax."""

from __future__ import annotations

import triton.language as tl

from dropfold.kernels.backend.triton import jit

FLOAT32_MAX = tl.constexpr(3.4028234663852886e38)


@jit
def take_rows(maximum, argmax, values, keep, o_m, limit):
    """Take the kept values [M, C] of rows o_m into the max [C] and its row; of equal values the first row has the max, as on
    the CPU; `limit` is above every row.

    NaN wins: on the way it counts as infinity, and infinity as the largest finite number; `finish_maximum` undoes it.
    """
    values = tl.where(values == values, tl.minimum(values, FLOAT32_MAX), float("inf"))
    values = tl.where(keep, values, float("-inf"))
    tile_maximum = tl.max(values, axis=0)
    first = tl.min(tl.where(keep & (values == tile_maximum[None, :]), o_m[:, None], limit), axis=0)
    argmax = tl.where(tile_maximum > maximum, first, argmax)
    return tl.maximum(maximum, tile_maximum), argmax


@jit
def finish_maximum(maximum):
    """The max [C] of all rows that `take_rows` took."""
    finite = tl.where(maximum == FLOAT32_MAX, float("inf"), maximum)
    return tl.where(maximum == float("inf"), float("nan"), finite)
