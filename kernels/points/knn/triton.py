"""knn in Triton: a block of queries scans its cloud and keeps a sorted list each."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.points.clouds import ptr_to_batch
from dropfold.kernels.points.knn.operation import MAX_SUMMED_CHANNELS


@jit
def _knn_fwd_kernel(
    p_x, p_squares, p_batch, p_ptr, p_out, rows, channels, k, DIRECT: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    mask_q = o_q < rows
    batch = tl.load(p_batch + o_q, mask=mask_q, other=0)
    start_q = tl.load(p_ptr + batch, mask=mask_q, other=0)
    stop_q = tl.load(p_ptr + batch + 1, mask=mask_q, other=0)
    # Rows are sorted by cloud, so a block of queries sees one range of candidates.
    begin = tl.min(tl.where(mask_q, start_q, rows), axis=0)
    end = tl.max(stop_q, axis=0)
    none = 0x7FFFFFFFFFFFFFFF
    best = tl.full((BLOCK_Q, BLOCK_N), none, tl.int64)
    o_n = tl.arange(0, BLOCK_N)
    for i_n in range(begin, end, BLOCK_N):
        o_j = i_n + o_n.to(tl.int64)
        mask_j = o_j < end
        d = tl.zeros((BLOCK_Q, BLOCK_N), tl.float32)
        if DIRECT:
            for c in range(channels):
                q = tl.load(p_x + o_q * channels + c, mask=mask_q, other=0.0).to(tl.float32)
                n = tl.load(p_x + o_j * channels + c, mask=mask_j, other=0.0).to(tl.float32)
                d += (q[:, None] - n[None, :]) * (q[:, None] - n[None, :])
        else:
            for i_c in range(0, channels, BLOCK_K):
                o_c = i_c + tl.arange(0, BLOCK_K)
                q = tl.load(
                    p_x + o_q[:, None] * channels + o_c[None, :],
                    mask=mask_q[:, None] & (o_c[None, :] < channels),
                    other=0.0,
                )
                n = tl.load(
                    p_x + o_j[None, :] * channels + o_c[:, None],
                    mask=mask_j[None, :] & (o_c[:, None] < channels),
                    other=0.0,
                )
                d = tl.dot(q, n, d, input_precision="ieee")
            squares_q = tl.load(p_squares + o_q, mask=mask_q, other=0.0)
            squares_n = tl.load(p_squares + o_j, mask=mask_j, other=0.0)
            d = squares_q[:, None] + squares_n[None, :] - 2 * d
            d = tl.where(d < 0, 0.0, d)  # NaN stays NaN
            d = tl.where(o_q[:, None] == o_j[None, :], 0.0, d)
        # Non-negative floats are ordered as their bits: one key has the distance above and the row number below.
        # NaN is never near.
        key = (d.to(tl.int32, bitcast=True).to(tl.int64) << 32) | o_j[None, :]
        own_cloud = (o_j[None, :] >= start_q[:, None]) & (o_j[None, :] < stop_q[:, None])
        key = tl.where(own_cloud & (d == d), key, none)
        if tl.min(tl.min(key, axis=1) - tl.max(best, axis=1), axis=0) < 0:
            # An ascending and a descending list: the smaller ones of each pair are the BLOCK_N smallest of both.
            best = tl.sort(tl.minimum(best, tl.sort(key, dim=1, descending=True)), dim=1)
    # In a cloud of fewer than k points, or fewer near ones, the point itself fills its list.
    best = tl.where(best == none, o_q[:, None], best)
    o = o_q[:, None] * k + o_n[None, :]
    tl.store(p_out + o, best & 0xFFFFFFFF, mask=mask_q[:, None] & (o_n[None, :] < k))


def knn(x: Tensor, ptr: Tensor, k: int) -> Tensor:
    x = x.float().contiguous()
    rows, channels = x.shape
    batch = ptr_to_batch(ptr, rows)
    direct = channels <= MAX_SUMMED_CHANNELS
    squares = x
    if not direct:
        sums = torch.zeros((ptr.shape[0] - 1, channels), device=x.device).index_add_(0, batch, x)
        x = x - (sums / (ptr[1:] - ptr[:-1])[:, None])[batch]
        squares = x.square().sum(1)
    out = torch.empty((rows, k), dtype=torch.int64, device=x.device)
    block_n = max(32, next_power_of_2(k))
    block_q = max(1 if direct else 16, 512 // block_n)
    _knn_fwd_kernel[(cdiv(rows, block_q),)](
        *(x, squares, batch, ptr, out, rows, channels, k),
        DIRECT=direct,
        BLOCK_Q=block_q,
        BLOCK_N=block_n,
        BLOCK_K=32,
        num_warps=8 if block_q * block_n > 512 else 4,
    )
    return out
