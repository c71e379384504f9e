"""ball_query in Triton: blocks of centres scan their cloud in index order until all have k points."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.points.ball_query.operation import squared_radius
from dropfold.kernels.points.clouds import ptr_to_batch


@jit
def _ball_query_fwd_kernel(
    p_x, p_ptr, p_centres, p_batch, p_lists, p_size, groups, rows, limit, k, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    mask_q = o_q < groups
    batch = tl.load(p_batch + o_q, mask=mask_q, other=0)
    start_q = tl.load(p_ptr + batch, mask=mask_q, other=0)
    stop_q = tl.load(p_ptr + batch + 1, mask=mask_q, other=0)
    x = tl.load(p_centres + o_q * 3, mask=mask_q, other=0.0)
    y = tl.load(p_centres + o_q * 3 + 1, mask=mask_q, other=0.0)
    z = tl.load(p_centres + o_q * 3 + 2, mask=mask_q, other=0.0)
    # Centres are sorted by cloud, so a block of them sees one range of points.
    i_n = tl.min(tl.where(mask_q, start_q, rows), axis=0)
    end = tl.max(stop_q, axis=0)
    none = 0x7FFFFFFFFFFFFFFF
    best = tl.full((BLOCK_Q,), none, tl.int64)
    count = tl.where(mask_q, 0, k)
    while (i_n < end) & (tl.min(count, axis=0) < k):
        o_j = i_n + tl.arange(0, BLOCK_N).to(tl.int64)
        mask_j = o_j < end
        a = tl.load(p_x + o_j * 3, mask=mask_j, other=0.0)[None, :] - x[:, None]
        b = tl.load(p_x + o_j * 3 + 1, mask=mask_j, other=0.0)[None, :] - y[:, None]
        c = tl.load(p_x + o_j * 3 + 2, mask=mask_j, other=0.0)[None, :] - z[:, None]
        d = a * a + b * b + c * c
        own_cloud = (o_j[None, :] >= start_q[:, None]) & (o_j[None, :] < stop_q[:, None])
        inside = own_cloud & (d <= limit)
        place = count[:, None] + tl.cumsum(inside.to(tl.int32), axis=1) - 1
        number = o_j[None, :] - start_q[:, None]
        tl.store(p_lists + o_q[:, None] * k + place, number.to(tl.int32), mask=inside & (place < k))
        count += tl.sum(inside.to(tl.int32), axis=1)
        # Non-negative floats are ordered as their bits: one key has the distance above and the number below.
        # NaN is never near.
        key = (d.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number
        best = tl.minimum(best, tl.min(tl.where(own_cloud & (d == d), key, none), axis=1))
        i_n += BLOCK_N
    nearest = tl.where(best == none, 0, best & 0xFFFFFFFF).to(tl.int32)
    tl.store(p_lists + o_q * k, nearest, mask=mask_q & (count == 0))
    tl.store(p_size + o_q, tl.minimum(tl.maximum(count, 1), k).to(tl.int64), mask=mask_q)


def make_lists(
    x: Tensor, ptr: Tensor, centres: Tensor, batch: Tensor, radius: float, k: int
) -> tuple[Tensor, Tensor]:
    """Each ball's points, numbered within their cloud, int32 [G, k], and how many they are, int64 [G]."""
    groups = centres.shape[0]
    lists = torch.empty((groups, k), dtype=torch.int32, device=x.device)
    size = torch.empty(groups, dtype=torch.int64, device=x.device)
    _ball_query_fwd_kernel[(cdiv(groups, 16),)](
        *(x, ptr, centres, batch, lists, size, groups, x.shape[0], squared_radius(radius, x.dtype), k),
        BLOCK_Q=16,
        BLOCK_N=64,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return lists, size


def ball_query(
    x: Tensor, ptr: Tensor, centres: Tensor, centres_ptr: Tensor, radius: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch = ptr_to_batch(centres_ptr, centres.shape[0])
    width = max(1, min(k, x.shape[0]))
    lists, size = make_lists(x, ptr, centres, batch, radius, width)
    offsets = torch.nn.functional.pad(size.cumsum(0), (1, 0))
    filled = torch.arange(width, device=x.device) < size[:, None]
    idx = (lists + ptr[batch, None])[filled]
    count = torch.ones_like(idx)
    count[offsets[:-1]] = k + 1 - size
    return offsets, idx, count
