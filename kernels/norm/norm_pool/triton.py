"""norm_pool in Triton: one kernel forward, one backward."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.noise.draw.triton import noise_tile
from dropfold.kernels.noise.elementwise.triton import leaky_relu
from dropfold.kernels.norm.norm_pool.operation import empty_pools
from dropfold.kernels.norm.triton_max import finish_maximum, take_rows


def norm_pool_fwd(
    y: Tensor, ptr: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float, mode: int,
    keep_scale: Tensor, p: Tensor, noise_scale: Tensor, seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    maximum, argmax, sums = empty_pools(y, ptr, scale)
    rows, channels = y.shape
    block_c = min(32, max(4, next_power_of_2(channels)))
    _norm_pool_fwd_kernel[(maximum.shape[0], cdiv(channels, block_c))](
        *(y, ptr, scale, shift, mean, rstd, slope, keep_scale, p, noise_scale, seed, maximum, argmax, sums),
        *(rows, channels),
        MODE=mode,
        BLOCK_M=64,
        BLOCK_C=block_c,
        BY_FOUR=channels % 4 == 0,
    )
    return maximum, argmax, sums


def norm_pool_bwd(
    y: Tensor, batch: Tensor, vectors: Tensor, dmax: Tensor, dmean: Tensor, argmax: Tensor, slope: float,
    first: int, stop: int, mode: int, keep_scale: Tensor, p: Tensor, noise_scale: Tensor, seed: Tensor,
) -> Tensor:  # fmt: skip
    dy = torch.empty_like(y)
    rows, channels = y.shape
    block_c = min(128, max(4, next_power_of_2(channels)))
    block_m = 512 // block_c
    _norm_pool_bwd_kernel[(cdiv(rows, block_m), cdiv(channels, block_c))](
        *(y, batch, vectors, dmax, dmean, argmax, slope, keep_scale, p, noise_scale, seed),
        *(dy, rows, channels),
        MODE=mode,
        BLOCK_M=block_m,
        BLOCK_C=block_c,
        BY_FOUR=channels % 4 == 0,
    )
    return dy[first:stop]  # on a GPU, all of it


@jit
def _norm_pool_fwd_kernel(
    p_y, p_ptr, p_scale, p_shift, p_mean, p_rstd, slope, p_keep_scale, p_probability, p_noise_scale, p_seed, p_maximum,
    p_argmax, p_sums, rows, channels, MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    BY_FOUR: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    scale = tl.load(p_scale + o_c, mask=mask_c, other=0.0)[None, :]
    shift = tl.load(p_shift + o_c, mask=mask_c, other=0.0)[None, :]
    mean = tl.load(p_mean + o_c, mask=mask_c, other=0.0)[None, :]
    rstd = tl.load(p_rstd + o_c, mask=mask_c, other=0.0)[None, :]
    start = tl.load(p_ptr + i_b)
    stop = tl.load(p_ptr + i_b + 1)
    maximum = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    argmax = tl.full((BLOCK_C,), -1, tl.int64)
    count = tl.zeros((BLOCK_C,), tl.float32)
    total = tl.zeros((BLOCK_C,), tl.float32)
    slopes = tl.zeros((BLOCK_C,), tl.float32)
    y_hats = tl.zeros((BLOCK_C,), tl.float32)
    for i_m in range(start, stop, BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M).to(tl.int64)
        inside = (o_m[:, None] < stop) & mask_c[None, :]
        y = tl.load(p_y + o_m[:, None] * channels + o_c[None, :], mask=inside, other=0.0).to(tl.float32)
        keep = inside
        if MODE != 0:
            f = noise_tile(
                *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, o_m, i_c, channels),
                *(BLOCK_M, BLOCK_C, BY_FOUR),
            )
            keep = keep & (f > 0)
        z = scale * y + shift
        a = leaky_relu(z, slope)
        total += tl.sum(tl.where(keep, a, 0.0), axis=0)
        maximum, argmax = take_rows(maximum, argmax, a, keep, o_m, rows)
        count += tl.sum(keep.to(tl.float32), axis=0)
        da = tl.where(keep, tl.where(z > 0, 1.0, slope), 0.0)
        slopes += tl.sum(da, axis=0)
        y_hats += tl.sum(da * (y - mean) * rstd, axis=0)
    o = i_b * channels + o_c
    tl.store(p_maximum + o, finish_maximum(maximum), mask=mask_c)
    tl.store(p_argmax + o, argmax, mask=mask_c)
    o = i_b * 4 * channels + o_c
    tl.store(p_sums + o, count, mask=mask_c)
    tl.store(p_sums + o + channels, total, mask=mask_c)
    tl.store(p_sums + o + 2 * channels, slopes, mask=mask_c)
    tl.store(p_sums + o + 3 * channels, y_hats, mask=mask_c)


@jit
def _norm_pool_bwd_kernel(
    p_y, p_batch, p_vectors, p_dmax, p_dmean, p_argmax, slope, p_keep_scale, p_probability, p_noise_scale, p_seed, p_dy,
    rows, channels, MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    inside = (o_m[:, None] < rows) & mask_c[None, :]
    y = tl.load(p_y + o_m[:, None] * channels + o_c[None, :], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(p_batch + o_m, mask=o_m < rows, other=0)
    o_b = b[:, None] * channels + o_c[None, :]
    dz = tl.load(p_dmean + o_b, mask=inside, other=0.0)
    argmax = tl.load(p_argmax + o_b, mask=inside, other=-1)
    hit = inside & (argmax == o_m[:, None])
    dz += tl.load(p_dmax + o_b, mask=hit, other=0.0)
    scale = tl.load(p_vectors + o_c, mask=mask_c, other=0.0)[None, :]
    shift = tl.load(p_vectors + channels + o_c, mask=mask_c, other=0.0)[None, :]
    mean = tl.load(p_vectors + 2 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    rstd = tl.load(p_vectors + 3 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    mean_dz = tl.load(p_vectors + 4 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    mean_dz_y_hat = tl.load(p_vectors + 5 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    dz = tl.where(scale * y + shift > 0, dz, slope * dz)
    if MODE != 0:
        f = noise_tile(
            *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, o_m, i_c, channels),
            *(BLOCK_M, BLOCK_C, BY_FOUR),
        )
        dz = tl.where(f > 0, dz, 0.0)
    dy = scale * (dz - mean_dz - (y - mean) * rstd * mean_dz_y_hat)
    tl.store(p_dy + o_m[:, None] * channels + o_c[None, :], dy.to(p_dy.dtype.element_ty), mask=inside)
