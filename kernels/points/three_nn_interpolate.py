r"""Features of points from the k nearest points that have them, weighted by inverse squared distance.

    out_i = sum_j w_ij f_j / sum_j w_ij,   w_ij = 1 / (|q_i - p_j|^2 + 1e-8),   j the k nearest of q_i in its cloud

Of equally near points the smaller index is taken; a cloud of fewer than k points uses all. Distances are sums of
squared differences in float32 (float64 for float64 positions). The gradient goes to the features alone,

    df_j = sum over i with j in N(i) of w_ij / (sum_j w_ij) dout_i,

over the transposed graph, without atomics: it is the same in every run.

Source: PointNet++ (Qi et al. 2017, equation 2, p = 2, k = 3); the 1e-8 is that of its public implementations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.numba import njit, shared
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import accumulator, cdiv, jit, next_power_of_2
from dropfold.kernels.points.boxes import DEPTH, LEAF, NONE, boxes_of, nearest, reach
from dropfold.kernels.points.clouds import ptr_to_batch, transposed
from dropfold.kernels.points.positions import positions_of_both

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

CHUNK = 32  # points that a core takes at a time
EPS = 1e-8  # added to squared distances

# --- CPU ---------------------------------------------------------------------------------------------------------


@njit(parallel=True)
def _nearest_cpu(
    pos, ptr, query, query_ptr, order, first_of, points, index, leaves, nodes, child, boxes, idx, weight
):
    k = idx.shape[1]
    number = query.dtype.type  # with a Python number float32 becomes float64
    for block in prange(order.shape[0]):
        b = 0  # the cloud
        while first_of[b + 1] <= block:
            b += 1
        own, numbers = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
        to, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
        cloud, first = pos[ptr[b] : ptr[b + 1]], ptr[b]
        stack, far, distances = (
            np.empty(DEPTH, np.int32),
            np.empty(DEPTH, pos.dtype),
            np.empty(LEAF, pos.dtype),
        )
        keys, best = np.empty(k, pos.dtype), np.full(k, NONE, np.int32)
        for e in range(LEAF):
            if order[block, e] == NONE:
                break
            i = query_ptr[b] + order[block, e]
            x, y, z = query[i, 0], query[i, 1], query[i, 2]
            bound = reach(cloud, best, x, y, z)  # of the neighbours of the query before, which lies close by
            nearest(own, numbers, to, tree, x, y, z, bound, stack, far, distances, keys, best)
            total = number(0)
            for n in range(k):
                there = best[n] != NONE
                share = number(1) / (keys[n] + number(EPS)) if there else number(0)
                idx[i, n] = first + (best[n] if there else 0)
                weight[i, n] = share
                total += share
            for n in range(k):
                weight[i, n] *= number(1) / total if total > 0 else number(np.nan)


def _cpu_nearest(pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int) -> tuple[Tensor, Tensor]:
    idx, weight = _fake_nearest(pos, ptr, query, query_ptr, k)
    near = boxes_of(query, query_ptr)  # for queries in an order in which each is close to the one before
    boxes = boxes_of(pos, ptr)
    with shared(500 * query.shape[0]):
        _nearest_cpu(pos, ptr, query, query_ptr, near.index, near.leaves, *boxes, idx, weight)
    return idx, weight


@njit(parallel=True)
def _interpolate_cpu(features, idx, weight, out):
    queries, k = idx.shape
    for block in prange((queries + CHUNK - 1) // CHUNK):
        for i in range(block * CHUNK, min(queries, (block + 1) * CHUNK)):
            own = out[i]
            own[:] = 0
            for e in range(k):
                row, w = features[idx[i, e]], weight[i, e]
                for c in range(own.shape[0]):
                    own[c] += w * row[c]


@njit(parallel=True)
def _backward_cpu(dout, weight, ptr, entries, df):
    k = weight.shape[1]
    for block in prange((df.shape[0] + CHUNK - 1) // CHUNK):
        for j in range(block * CHUNK, min(df.shape[0], (block + 1) * CHUNK)):
            own = df[j]
            own[:] = 0
            for e in range(ptr[j], ptr[j + 1]):
                i = entries[e] // k
                row, w = dout[i], weight[i, entries[e] - i * k]
                for c in range(own.shape[0]):
                    own[c] += w * row[c]


def _cpu_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    wide = features.to(accumulator(features.dtype))
    out = wide.new_empty((idx.shape[0], wide.shape[1]))
    with shared(0.2 * idx.numel() * wide.shape[1]):
        _interpolate_cpu(wide, idx, weight.to(wide.dtype), out)
    return out.to(features.dtype)


def _cpu_backward(dout: Tensor, idx: Tensor, weight: Tensor, rows: int) -> Tensor:
    wide = dout.to(accumulator(dout.dtype))
    df = wide.new_empty((rows, wide.shape[1]))
    turned = transposed(idx, rows)
    with shared(0.2 * idx.numel() * wide.shape[1]):
        _backward_cpu(wide, weight.to(wide.dtype), *turned, df)
    return df.to(dout.dtype)


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def _three_nn_fwd_kernel(
    p_pos, p_ptr, p_query, p_batch, p_idx, p_weight, queries, rows, k, eps, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    there_q = o_q < queries
    batch = tl.load(p_batch + o_q, mask=there_q, other=0)
    start_q = tl.load(p_ptr + batch, mask=there_q, other=0)
    stop_q = tl.load(p_ptr + batch + 1, mask=there_q, other=0)
    x = tl.load(p_query + o_q * 3, mask=there_q, other=0.0)
    y = tl.load(p_query + o_q * 3 + 1, mask=there_q, other=0.0)
    z = tl.load(p_query + o_q * 3 + 2, mask=there_q, other=0.0)
    # Queries are sorted by cloud, so a block of them sees one range of points.
    begin = tl.min(tl.where(there_q, start_q, rows), axis=0)
    end = tl.max(stop_q, axis=0)
    none = 0x7FFFFFFFFFFFFFFF
    o_k = tl.arange(0, BLOCK_K)
    best = tl.zeros((BLOCK_Q, BLOCK_K), tl.int64) + (none - o_k.to(tl.int64))[None, :]  # no two are the same
    for i_n in range(begin, end, BLOCK_N):
        o_j = i_n + tl.arange(0, BLOCK_N).to(tl.int64)
        there_j = o_j < end
        a = tl.load(p_pos + o_j * 3, mask=there_j, other=0.0)[None, :] - x[:, None]
        b = tl.load(p_pos + o_j * 3 + 1, mask=there_j, other=0.0)[None, :] - y[:, None]
        c = tl.load(p_pos + o_j * 3 + 2, mask=there_j, other=0.0)[None, :] - z[:, None]
        d = a * a + b * b + c * c
        # Non-negative floats are ordered as their bits are: distance above, row number below, in one key.
        key = (d.to(tl.int32, bitcast=True).to(tl.int64) << 32) | o_j[None, :]
        ours = (o_j[None, :] >= start_q[:, None]) & (o_j[None, :] < stop_q[:, None])
        key = tl.where(ours & (d == d), key, none)
        if tl.min(tl.min(key, axis=1) - tl.max(best, axis=1), axis=0) < 0:
            for _ in range(k):  # the smallest of the block takes the place of the largest so far
                least, worst = tl.min(key, axis=1), tl.max(best, axis=1)
                place = (best == worst[:, None]) & (least < worst)[:, None]
                best = tl.where(place, least[:, None], best)
                key = tl.where(key == least[:, None], none, key)
    best = tl.sort(best, dim=1)
    found = (best < (0x7F800001 << 32)) & (o_k < k)[None, :]
    d = (best >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    share = tl.where(found, 1.0 / (tl.where(found, d, 0.0) + eps), 0.0)
    share = share / tl.where(there_q, tl.sum(share, axis=1), 1.0)[:, None]
    o = o_q[:, None] * k + o_k[None, :]
    stored = there_q[:, None] & (o_k < k)[None, :]
    tl.store(p_idx + o, tl.where(found, best & 0xFFFFFFFF, start_q[:, None]), mask=stored)
    tl.store(p_weight + o, share, mask=stored)


@jit
def _three_nn_interpolate_fwd_kernel(
    p_features, p_idx, p_weight, p_out, queries, channels, k, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr
):
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there_q, there_c = o_q < queries, o_c < channels
    there = there_q[:, None] & there_c[None, :]
    out = tl.zeros((BLOCK_Q, BLOCK_C), tl.float32)
    for e in range(k):
        row = tl.load(p_idx + o_q * k + e, mask=there_q, other=0)
        w = tl.load(p_weight + o_q * k + e, mask=there_q, other=0.0)
        f = tl.load(p_features + row[:, None] * channels + o_c[None, :], mask=there, other=0.0)
        out += w[:, None] * f.to(tl.float32)
    o = o_q[:, None] * channels + o_c[None, :]
    tl.store(p_out + o, out.to(p_out.dtype.element_ty), mask=there)


@jit
def _three_nn_interpolate_bwd_kernel(
    p_dout, p_weight, p_entry_ptr, p_entries, p_df, channels, k, BLOCK_C: tl.constexpr
):
    j = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = o_c < channels
    df = tl.zeros((BLOCK_C,), tl.float32)
    for e in range(tl.load(p_entry_ptr + j), tl.load(p_entry_ptr + j + 1)):
        entry = tl.load(p_entries + e)
        w = tl.load(p_weight + entry)
        dout = tl.load(p_dout + entry // k * channels + o_c, mask=there, other=0.0)
        df += w * dout.to(tl.float32)
    tl.store(p_df + j * channels + o_c, df.to(p_df.dtype.element_ty), mask=there)


def _launch_nearest(
    pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    idx, weight = _fake_nearest(pos, ptr, query, query_ptr, k)
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


def _launch_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    (queries, k), channels = idx.shape, features.shape[1]
    out = features.new_empty((queries, channels))
    block_c = min(128, max(4, next_power_of_2(channels)))
    block_q = max(1, 1024 // block_c)
    _three_nn_interpolate_fwd_kernel[(cdiv(queries, block_q), cdiv(channels, block_c))](
        *(features, idx, weight, out, queries, channels, k), BLOCK_Q=block_q, BLOCK_C=block_c
    )
    return out


def _launch_backward(dout: Tensor, idx: Tensor, weight: Tensor, rows: int) -> Tensor:
    channels = dout.shape[1]
    df = dout.new_empty((rows, channels))
    block_c = min(128, max(4, next_power_of_2(channels)))
    _three_nn_interpolate_bwd_kernel[(rows, cdiv(channels, block_c))](
        *(dout, weight, *transposed(idx, rows), df, channels, idx.shape[1]), BLOCK_C=block_c, num_warps=1
    )
    return df


# --- operators, autograd, public function ------------------------------------------------------------------------


def _fake_nearest(
    pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    return ptr.new_empty((query.shape[0], k)), pos.new_empty((query.shape[0], k))


_nearest = operator(
    "three_nn(Tensor pos, Tensor ptr, Tensor query, Tensor query_ptr, int k) -> (Tensor, Tensor)",
    cpu=_cpu_nearest,
    triton=_launch_nearest,
    fake=_fake_nearest,
)
_interpolate = operator(
    "three_nn_interpolate_fwd(Tensor features, Tensor idx, Tensor weight) -> Tensor",
    cpu=_cpu_interpolate,
    triton=_launch_interpolate,
    fake=lambda features, idx, _: features.new_empty((idx.shape[0], features.shape[1])),
)
_backward = operator(
    "three_nn_interpolate_bwd(Tensor dout, Tensor idx, Tensor weight, int rows) -> Tensor",
    cpu=_cpu_backward,
    triton=_launch_backward,
    fake=lambda dout, idx, weight, rows: dout.new_empty((rows, dout.shape[1])),
)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(idx, weight)
        ctx.rows = features.shape[0]
        return _interpolate(features, idx, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(dout.contiguous(), *ctx.saved_tensors, ctx.rows), None, None


def three_nn_interpolate(
    features: Tensor,
    pos: Tensor,
    query: Tensor,
    *,
    k: int = 3,
    batch: Tensor | None = None,
    query_batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Features at `query` from those of the k nearest points of `pos`; see the head of this file.

    Args:
        features: dense [B, S, C], or rows [M, C].
        pos: their positions, [B, S, 3] or [M, 3] with `batch` [M] (None: one cloud).
        query: [B, N, 3] or [Q, 3] with `query_batch` [Q].
        k: at least 1; a cloud of fewer points uses all.

    Returns:
        [B, N, C] or [Q, C], in the type of the features.

    Raises:
        ValueError: shapes do not fit, k is below 1, or (on the CPU) a query in a cloud without points.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got k = {k}.")
    if features.shape[:-1] != pos.shape[:-1] or features.dim() != pos.dim():
        raise ValueError(
            f"features must be [B, S, C] for pos [B, S, 3], or [M, C] for rows [M, 3]; got features {describe(features)} "
            f"and pos {describe(pos)}."
        )
    both = positions_of_both(("pos", "query"), pos, query, batch, query_batch, batch_size)
    with torch.no_grad():
        idx, weight = _nearest(*both, k)
    out = _Interpolate.apply(features.reshape(-1, features.shape[-1]).contiguous(), idx, weight)
    return out.view(*query.shape[:-1], features.shape[-1])
