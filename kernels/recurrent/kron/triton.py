"""Products with W = sum_s A_s (x) C_s mask_x Triton kernels, for some rows of a batch, and what their launches take."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.kron.factors import is_dense, right_first
from dropfold.kernels.recurrent.kron.products import KronProduct

ROWS_PER_TILE = 16  # the fewest that `tl.dot` takes


class KronLaunch(NamedTuple):
    """What a kernel that calls `kron_product` is launched with.

    `first` and `second` are those of a `KronProduct`, contiguous (of a dense W, W itself and a placeholder). One row of
    the batch is `rows` rows of each of the two products, and leaves `between` numbers between them.
    """

    first: Tensor
    second: Tensor
    right: bool
    rows: tuple[int, int]
    between: int


def plan_launch(a: Tensor, c: Tensor) -> KronLaunch:
    """The cheaper order of the two products, its matrices and its sizes."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    right = right_first(a, c)
    rows = (p, v) if right else (q, u)
    if is_dense(a):
        first, second = (a * c)[0].contiguous(), a
    else:
        product = KronProduct(a, c, right)
        first, second = product.first.contiguous(), product.second.contiguous()
    return KronLaunch(first, second, right, rows, rows[0] * s * rows[1])


def rows_together(batch: int, *rows: int) -> int:
    """How many rows of the batch one program takes, so that every product fills the rows of a tile."""
    return min(batch, max(1, ROWS_PER_TILE // max(1, min(rows))))


def tile_sizes(dtype: torch.dtype) -> dict[str, int]:
    """Block sizes of `kron_product`: float32 products hold their operands in registers."""
    return {"BLOCK_M": ROWS_PER_TILE, "BLOCK_N": 64, "BLOCK_K": 16 if dtype == torch.float32 else 32}


@jit
def kron_stage(
    p_x, x_b, x_i, x_k, p_keep_scale, p_w, p_bias, p_out, out_b, out_i, out_n, first, stop, scale, shift,
    ROWS: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    SCALED: tl.constexpr, DROPPED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[b, i, n] = sum_k x[b, i, k] w[k, n] for b = first .. stop - 1 and i < ROWS, by tiles of rows (b, i).

    x is scaled and shifted first (SCALED), or multiplied by `keep_scale`, which lies as x does (DROPPED).
    """
    rows = (stop - first) * ROWS
    for i_m in range(0, rows, BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M)
        mask_m = o_m < rows
        b = first + (o_m // ROWS).to(tl.int64)
        i = o_m % ROWS
        o_x = b * x_b + i * x_i
        o_out = b * out_b + i * out_i
        for i_n in range(0, N, BLOCK_N):
            o_n = i_n + tl.arange(0, BLOCK_N)
            mask_n = o_n < N
            sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for i_k in range(0, K, BLOCK_K):
                o_k = i_k + tl.arange(0, BLOCK_K)
                mask_x = mask_m[:, None] & (o_k[None, :] < K)
                o_xk = o_x[:, None] + o_k[None, :] * x_k
                w = tl.load(
                    p_w + o_k[:, None] * N + o_n[None, :],
                    mask=(o_k[:, None] < K) & mask_n[None, :],
                    other=0.0,
                )
                x = tl.load(p_x + o_xk, mask=mask_x, other=0)
                if SCALED:
                    x = tl.where(mask_x, x.to(tl.float32) * scale + shift, 0.0)
                if DROPPED:
                    x = x.to(tl.float32) * tl.load(p_keep_scale + o_xk, mask=mask_x, other=0.0)
                sums = tl.dot(x.to(w.dtype), w, sums, input_precision=PRECISION)
            o_y = i[:, None] * out_i + o_n[None, :] * out_n
            mask_y = mask_m[:, None] & mask_n[None, :]
            if BIASED:
                sums += tl.load(p_bias + o_y, mask=mask_y, other=0.0).to(tl.float32)
            tl.store(p_out + o_out[:, None] + o_n[None, :] * out_n, sums, mask=mask_y)


@jit
def kron_product(
    p_x, x_b, p_keep_scale, p_first, p_second, p_bias, p_t, p_y, first, stop, scale, shift,
    S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr, RIGHT: tl.constexpr,
    SCALED: tl.constexpr, DROPPED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y[b] = x[b] W for b = first .. stop - 1, y [B, U V] contiguous, rows of x `x_b` apart; t [B, ..] holds T.

    The threads of the program write T and read what other threads wrote, so a barrier stands between. A caller that reads
    y, or writes x or T again, sets the next barrier.
    """
    if S * P * U == 1:  # dense
        kron_stage(
            p_x, x_b, Q, 1, p_keep_scale, p_first, p_bias, p_y, V, V, 1, first, stop, scale, shift,
            1, Q, V, SCALED, DROPPED, BIASED, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
    elif RIGHT:
        kron_stage(
            p_x, x_b, Q, 1, p_keep_scale, p_first, p_bias, p_t, P * S * V, S * V, 1, first, stop, scale, shift,
            P, Q, S * V, SCALED, DROPPED, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        kron_stage(
            p_t, P * S * V, 1, V, p_keep_scale, p_second, p_bias, p_y, U * V, 1, V, first, stop, scale, shift,
            V, P * S, U, False, False, BIASED, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
    else:
        kron_stage(
            p_x, x_b, 1, Q, p_keep_scale, p_first, p_bias, p_t, Q * S * U, S * U, 1, first, stop, scale, shift,
            Q, P, S * U, SCALED, DROPPED, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        kron_stage(
            p_t, Q * S * U, 1, U, p_keep_scale, p_second, p_bias, p_y, U * V, V, 1, first, stop, scale, shift,
            U, Q * S, V, False, False, BIASED, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
