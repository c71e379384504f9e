"""three_nn_interpolate in Triton: a scan for the neighbours, then sums over them and over their transpose."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.points.clouds import ptr_to_batch, transpose_lists
from dropfold.kernels.points.three_nn_interpolate.operation import EPS, empty_neighbours


@jit
def _three_nn_fwd_kernel(
    p_pos, p_ptr, p_query, p_batch, p_idx, p_weight, queries, rows, k, eps, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    mask_q = o_q < queries
    batch = tl.load(p_batch + o_q, mask=mask_q, other=0)
    start_q = tl.load(p_ptr + batch, mask=mask_q, other=0)
    stop_q = tl.load(p_ptr + batch + 1, mask=mask_q, other=0)
    x = tl.load(p_query + o_q * 3, mask=mask_q, other=0.0)
    y = tl.load(p_query + o_q * 3 + 1, mask=mask_q, other=0.0)
    z = tl.load(p_query + o_q * 3 + 2, mask=mask_q, other=0.0)
    # Queries are sorted by cloud, so a block of them sees one range of points.
    begin = tl.min(tl.where(mask_q, start_q, rows), axis=0)
    end = tl.max(stop_q, axis=0)
    none = 0x7FFFFFFFFFFFFFFF
    o_k = tl.arange(0, BLOCK_K)
    best = tl.zeros((BLOCK_Q, BLOCK_K), tl.int64) + (none - o_k.to(tl.int64))[None, :]  # no two are equal
    for i_n in range(begin, end, BLOCK_N):
        o_j = i_n + tl.arange(0, BLOCK_N).to(tl.int64)
        mask_j = o_j < end
        a = tl.load(p_pos + o_j * 3, mask=mask_j, other=0.0)[None, :] - x[:, None]
        b = tl.load(p_pos + o_j * 3 + 1, mask=mask_j, other=0.0)[None, :] - y[:, None]
        c = tl.load(p_pos + o_j * 3 + 2, mask=mask_j, other=0.0)[None, :] - z[:, None]
        d = a * a + b * b + c * c
        # Non-negative floats are ordered as their bits: one key has the distance above and the row number below.
        key = (d.to(tl.int32, bitcast=True).to(tl.int64) << 32) | o_j[None, :]
        own_cloud = (o_j[None, :] >= start_q[:, None]) & (o_j[None, :] < stop_q[:, None])
        key = tl.where(own_cloud & (d == d), key, none)
        if tl.min(tl.min(key, axis=1) - tl.max(best, axis=1), axis=0) < 0:
            for _ in range(k):  # the smallest of the block replaces the largest of the list
                least, worst = tl.min(key, axis=1), tl.max(best, axis=1)
                place = (best == worst[:, None]) & (least < worst)[:, None]
                best = tl.where(place, least[:, None], best)
                key = tl.where(key == least[:, None], none, key)
    best = tl.sort(best, dim=1)
    exists = (best < (0x7F800001 << 32)) & (o_k < k)[None, :]
    d = (best >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    weight = tl.where(exists, 1.0 / (tl.where(exists, d, 0.0) + eps), 0.0)
    weight = weight / tl.where(mask_q, tl.sum(weight, axis=1), 1.0)[:, None]
    o = o_q[:, None] * k + o_k[None, :]
    stored = mask_q[:, None] & (o_k < k)[None, :]
    tl.store(p_idx + o, tl.where(exists, best & 0xFFFFFFFF, start_q[:, None]), mask=stored)
    tl.store(p_weight + o, weight, mask=stored)


@jit
def _three_nn_interpolate_fwd_kernel(
    p_features, p_idx, p_weight, p_out, queries, channels, k, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr
):
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_q, mask_c = o_q < queries, o_c < channels
    mask = mask_q[:, None] & mask_c[None, :]
    out = tl.zeros((BLOCK_Q, BLOCK_C), tl.float32)
    for e in range(k):
        row = tl.load(p_idx + o_q * k + e, mask=mask_q, other=0)
        w = tl.load(p_weight + o_q * k + e, mask=mask_q, other=0.0)
        f = tl.load(p_features + row[:, None] * channels + o_c[None, :], mask=mask, other=0.0)
        out += w[:, None] * f.to(tl.float32)
    o = o_q[:, None] * channels + o_c[None, :]
    tl.store(p_out + o, out.to(p_out.dtype.element_ty), mask=mask)


@jit
def _three_nn_interpolate_bwd_kernel(
    p_dout, p_weight, p_entry_ptr, p_entries, p_df, channels, k, BLOCK_C: tl.constexpr
):
    j = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = o_c < channels
    df = tl.zeros((BLOCK_C,), tl.float32)
    for e in range(tl.load(p_entry_ptr + j), tl.load(p_entry_ptr + j + 1)):
        entry = tl.load(p_entries + e)
        w = tl.load(p_weight + entry)
        dout = tl.load(p_dout + entry // k * channels + o_c, mask=mask, other=0.0)
        df += w * dout.to(tl.float32)
    tl.store(p_df + j * channels + o_c, df.to(p_df.dtype.element_ty), mask=mask)


def three_nn(pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int) -> tuple[Tensor, Tensor]:
    idx, weight = empty_neighbours(pos, ptr, query, query_ptr, k)
    queries, block_k = query.shape[0], max(2, next_power_of_2(k))
    batch = ptr_to_batch(query_ptr, queries)
    _three_nn_fwd_kernel[(cdiv(queries, 16),)](
        *(pos, ptr, query, batch, idx, weight, queries, pos.shape[0], k, EPS),
        BLOCK_Q=16,
        BLOCK_N=64,
        BLOCK_K=block_k,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return idx, weight


def three_nn_interpolate_fwd(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    (queries, k), channels = idx.shape, features.shape[1]
    out = features.new_empty((queries, channels))
    block_c = min(128, max(4, next_power_of_2(channels)))
    block_q = max(1, 1024 // block_c)
    _three_nn_interpolate_fwd_kernel[(cdiv(queries, block_q), cdiv(channels, block_c))](
        *(features, idx, weight, out, queries, channels, k), BLOCK_Q=block_q, BLOCK_C=block_c
    )
    return out


def three_nn_interpolate_bwd(dout: Tensor, idx: Tensor, weight: Tensor, rows: int) -> Tensor:
    channels = dout.shape[1]
    df = dout.new_empty((rows, channels))
    block_c = min(128, max(4, next_power_of_2(channels)))
    _three_nn_interpolate_bwd_kernel[(rows, cdiv(channels, block_c))](
        *(dout, weight, *transpose_lists(idx, rows), df, channels, idx.shape[1]), BLOCK_C=block_c, num_warps=1
    )
    return df
