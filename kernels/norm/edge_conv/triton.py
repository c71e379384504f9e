"""The Triton kernels of `edge_conv`: one pass over the graph forward, one over the transposed graph backward."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.noise.draw.triton import noise_tile
from dropfold.kernels.norm.edge_conv.operation import POINTS_PER_BLOCK, empty_forward
from dropfold.kernels.points.clouds import transpose_lists


def edge_conv_fwd(
    pq: Tensor, idx: Tensor, mode: int, keep_scale: Tensor, p: Tensor, noise_scale: Tensor, seed: Tensor
) -> tuple[Tensor, ...]:
    outputs = empty_forward(pq, idx)
    (rows, k), channels = idx.shape, pq.shape[1] // 2
    block_c = min(64, max(4, next_power_of_2(channels)))
    _edge_conv_fwd_kernel[(outputs[3].shape[0], cdiv(channels, block_c))](
        *(pq, idx, keep_scale, p, noise_scale, seed, *outputs, rows, channels, k),
        MODE=mode,
        BLOCK=POINTS_PER_BLOCK,
        BLOCK_M=min(POINTS_PER_BLOCK, 1024 // block_c),
        BLOCK_C=block_c,
        BY_FOUR=channels % 4 == 0,
    )
    return outputs


def edge_conv_bwd(
    pq: Tensor, g: Tensor, total: Tensor, argmax: Tensor, idx: Tensor, vectors: Tensor
) -> Tensor:
    (rows, k), channels = idx.shape, g.shape[1]
    ptr, entries = transpose_lists(idx, rows)
    dpq = torch.empty_like(pq)
    block_c = min(128, max(4, next_power_of_2(channels)))
    _edge_conv_bwd_kernel[(rows, cdiv(channels, block_c))](
        *(pq, g, total, argmax, ptr, entries, vectors, dpq, channels, k), BLOCK_C=block_c, num_warps=1
    )
    return dpq


@jit
def _edge_conv_fwd_kernel(
    p_pq, p_idx, p_keep_scale, p_probability, p_noise_scale, p_seed, p_maximum, p_argmax, p_total, p_means, p_m2s, rows,
    channels, k, MODE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    BY_FOUR: tl.constexpr,
):  # fmt: skip
    i_block = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    row = 2 * channels
    j0 = tl.load(p_idx + i_block * BLOCK * k)
    pilot = tl.load(p_pq + j0 * row + channels + o_c, mask=mask_c, other=0.0).to(tl.float32)
    first = tl.zeros((BLOCK_C,), tl.float32)
    second = tl.zeros((BLOCK_C,), tl.float32)
    p0 = tl.load(p_pq + i_block * BLOCK * row + o_c, mask=mask_c, other=0.0).to(tl.float32)
    for start in range(0, BLOCK, BLOCK_M):
        o_m = i_block * BLOCK + start + tl.arange(0, BLOCK_M)
        mask_m = o_m < rows
        inside = mask_m[:, None] & mask_c[None, :]
        best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), tl.float32)
        arg = tl.zeros((BLOCK_M, BLOCK_C), tl.int32) + k
        s = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        ss = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for pos in range(k):
            j = tl.load(p_idx + o_m * k + pos, mask=mask_m, other=0)
            q = tl.load(p_pq + j[:, None] * row + channels + o_c[None, :], mask=inside, other=0.0).to(
                tl.float32
            )
            d = q - pilot[None, :]
            s += d
            ss += d * d
            better = (q > best) | (q != q) | (arg == k)
            if MODE != 0:
                f = noise_tile(
                    *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, j, i_c, channels),
                    *(BLOCK_M, BLOCK_C, BY_FOUR),
                )
                better = better & (f > 0)
            best = tl.where(better, q, best)
            arg = tl.where(better, pos, arg)
        o = o_m[:, None] * channels + o_c[None, :]
        p = tl.load(p_pq + o_m[:, None] * row + o_c[None, :], mask=inside, other=0.0).to(tl.float32)
        best += p
        if MODE != 0:
            best = tl.where(arg < k, best, 0.0)
        tl.store(p_maximum + o, best, mask=inside)
        tl.store(p_argmax + o, arg.to(p_argmax.dtype.element_ty), mask=inside)
        tl.store(p_total + o, s + k * pilot[None, :], mask=inside)
        p = p - p0[None, :]
        first += tl.sum(tl.where(inside, k * p + s, 0.0), axis=0)
        second += tl.sum(tl.where(inside, k * p * p + 2 * p * s + ss, 0.0), axis=0)
    edges = (k * tl.minimum(rows - i_block * BLOCK, BLOCK)).to(tl.float32)
    shift = first / edges
    o = i_block * channels + o_c
    tl.store(p_means + o, p0 + pilot + shift, mask=mask_c)
    tl.store(p_m2s + o, tl.maximum(second - first * shift, 0.0), mask=mask_c)


@jit
def _edge_conv_bwd_kernel(
    p_pq, p_g, p_total, p_argmax, p_ptr, p_entries, p_vectors, p_dpq, channels, k, BLOCK_C: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = o_c < channels
    row = 2 * channels
    start = tl.load(p_ptr + j)
    stop = tl.load(p_ptr + j + 1)
    hits = tl.zeros((BLOCK_C,), tl.float32)
    dense = tl.zeros((BLOCK_C,), tl.float32)
    for e in range(start, stop):
        entry = tl.load(p_entries + e)
        i = entry // k
        pos = (entry - i * k).to(tl.int32)
        argmax = tl.load(p_argmax + i * channels + o_c, mask=inside, other=0).to(tl.int32)
        hits += tl.load(p_g + i * channels + o_c, mask=inside & (argmax == pos), other=0.0)
        dense += tl.load(p_pq + i * row + o_c, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(p_vectors + o_c, mask=inside, other=0.0)
    mean = tl.load(p_vectors + channels + o_c, mask=inside, other=0.0)
    c1 = tl.load(p_vectors + 2 * channels + o_c, mask=inside, other=0.0)
    c2 = tl.load(p_vectors + 3 * channels + o_c, mask=inside, other=0.0)
    p = tl.load(p_pq + j * row + o_c, mask=inside, other=0.0).to(tl.float32)
    q = tl.load(p_pq + j * row + channels + o_c, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(p_g + j * channels + o_c, mask=inside, other=0.0)
    total = tl.load(p_total + j * channels + o_c, mask=inside, other=0.0)
    degree = (stop - start).to(tl.float32)
    dq = scale * (hits - degree * c1 - c2 * (dense + degree * (q - mean)))
    dp = scale * (g - k * c1 - c2 * (k * p + total - k * mean))
    tl.store(p_dpq + j * row + o_c, dp.to(p_dpq.dtype.element_ty), mask=inside)
    tl.store(p_dpq + j * row + channels + o_c, dq.to(p_dpq.dtype.element_ty), mask=inside)
