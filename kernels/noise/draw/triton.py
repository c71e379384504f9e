"""Drawing noise in Triton: which points are kept, and the keep scales of a tile, for kernels that carry noise."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.noise.philox.triton import uniform_gather
from dropfold.kernels.points.knn.triton import knn


@jit
def _kept_points_fwd_kernel(p_seed, p_thresholds, p_out, rows, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    u = uniform_gather(tl.load(p_seed), o)
    tl.store(p_out + o, tl.where(u >= tl.load(p_thresholds), 1.0, 0.0), mask=o < rows)


@jit
def _kept_clusters_fwd_kernel(
    p_seed, p_thresholds, p_neighbours, p_out, rows, k, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_k = tl.arange(0, BLOCK_K)
    inside = (o[:, None] < rows) & (o_k[None, :] < k)
    j = tl.load(p_neighbours + o[:, None] * k + o_k[None, :], mask=inside, other=0)
    # The first entry of each list, without a second load.
    first = tl.sum(tl.where(o_k[None, :] == 0, j, 0), axis=1)
    members = 1 + tl.sum((inside & (j != first[:, None])).to(tl.int32), axis=1)
    u = tl.where(inside, uniform_gather(tl.load(p_seed), j), 1.0)
    kept = tl.min(u, axis=1) >= tl.load(p_thresholds + members, mask=o < rows, other=0.0)
    tl.store(p_out + o, tl.where(kept, 1.0, 0.0), mask=o < rows)


def kept_points(seed: Tensor, thresholds: Tensor, neighbours: Tensor | None, rows: int) -> Tensor:
    out = torch.empty(rows, device=seed.device)
    if neighbours is None:
        _kept_points_fwd_kernel[(cdiv(rows, 256),)](seed, thresholds, out, rows, BLOCK=256)
        return out
    k = neighbours.shape[1]
    block_k = next_power_of_2(k)
    block = max(1, 1024 // block_k)
    _kept_clusters_fwd_kernel[(cdiv(rows, block),)](
        seed, thresholds, neighbours, out, rows, k, BLOCK=block, BLOCK_K=block_k
    )
    return out


def kept_by_nearest(seed: Tensor, thresholds: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    return kept_points(seed, thresholds, knn(x, ptr, thresholds.shape[0] - 1), x.shape[0])


@jit
def noise_tile(
    MODE: tl.constexpr, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, o_m, i_c, channels, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    """The keep scales of rows o_m [BLOCK_M] (int64), channels i_c .. i_c + BLOCK_C - 1. BY_FOUR: channels % 4 == 0."""
    if MODE == 2:
        keep_scale = tl.load(p_keep_scale + o_m, mask=o_m < rows, other=0.0)
        return tl.broadcast_to(keep_scale[:, None], (BLOCK_M, BLOCK_C))
    p = tl.load(p_probability)
    noise_scale = tl.load(p_noise_scale)
    seed = tl.load(p_seed)
    if BY_FOUR:
        o_q = tl.arange(0, BLOCK_C // 4)
        counter = (o_m[:, None] * channels + i_c + 4 * o_q[None, :]) >> 2
        c0, c1, c2, c3 = tl.randint4x(seed, counter)
        words = tl.join(tl.join(c0, c2), tl.join(c1, c3)).reshape(BLOCK_M, BLOCK_C)
        u = tl.uint_to_uniform_float(words)
    else:
        u = uniform_gather(seed, o_m[:, None] * channels + i_c + tl.arange(0, BLOCK_C)[None, :])
    return tl.where(u >= p, noise_scale, 0.0)
