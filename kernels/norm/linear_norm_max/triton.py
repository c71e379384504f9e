"""linear_norm_max in Triton: product and max in one kernel forward, one kernel for each gradient backward."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2, precision
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.noise.draw import ELEMENTS
from dropfold.kernels.noise.draw.triton import noise_tile
from dropfold.kernels.norm.linear_norm_max.operation import empty_gradients, empty_maximum
from dropfold.kernels.norm.triton_max import finish_maximum, take_rows
from dropfold.kernels.points.clouds import transpose_lists


def linear_norm_max_fwd(
    x: Tensor, weight: Tensor, ptr: Tensor, mode: int, keep_scale: Tensor, p: Tensor, noise_scale: Tensor,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    maximum, argmax = empty_maximum(x, weight, ptr)
    (rows, c_in), c_out = x.shape, weight.shape[0]
    exact = x.dtype == torch.float32  # products that take more registers; DropFeat's words take more still
    block_m, block_c = 32 if exact else 64, 32 if exact and mode == ELEMENTS else 64
    block_k = 16 if exact else min(64, max(16, next_power_of_2(c_in)))
    _linear_norm_max_fwd_kernel[(maximum.shape[0], cdiv(c_out, block_c))](
        *(x, weight, ptr, keep_scale, p, noise_scale, seed, maximum, argmax, rows, c_in, c_out),
        MODE=mode,
        BLOCK_M=block_m,
        BLOCK_C=block_c,
        BLOCK_K=block_k,
        BY_FOUR=c_out % 4 == 0,
        PRECISION=precision(x),
        num_stages=2,
    )
    return maximum, argmax


def linear_norm_max_bwd(g: Tensor, argmax: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    (rows, c_in), (clouds, c_out) = x.shape, argmax.shape
    dx, dweight = empty_gradients(g, argmax, x, weight)
    ptr, entries = transpose_lists(argmax, rows)
    block_k = min(128, max(16, next_power_of_2(c_in)))
    columns = cdiv(c_in, block_k)
    _linear_norm_max_bwd_x_kernel[(rows, columns)](
        g, weight, ptr, entries, dx, c_in, c_out, BLOCK_K=block_k, num_warps=1
    )
    _linear_norm_max_bwd_w_kernel[(cdiv(c_out, 16), columns)](
        g, argmax, x, dweight, clouds, c_in, c_out, BLOCK_C=16, BLOCK_K=block_k
    )
    return dx, dweight


@jit
def _linear_norm_max_fwd_kernel(
    p_x, p_weight, p_ptr, p_keep_scale, p_probability, p_noise_scale, p_seed, p_maximum, p_argmax, rows, c_in, c_out,
    MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    BY_FOUR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_b = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    mask_c = o_c < c_out
    start = tl.load(p_ptr + i_b)
    stop = tl.load(p_ptr + i_b + 1)
    maximum = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    argmax = tl.full((BLOCK_C,), -1, tl.int64)
    for i_m in range(start, stop, BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M).to(tl.int64)
        mask_m = o_m < stop
        y = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for i_k in range(0, c_in, BLOCK_K):
            o_k = i_k + tl.arange(0, BLOCK_K)
            x = tl.load(
                p_x + o_m[:, None] * c_in + o_k[None, :],
                mask=mask_m[:, None] & (o_k[None, :] < c_in),
                other=0.0,
            )
            w = tl.load(
                p_weight + o_c[None, :].to(tl.int64) * c_in + o_k[:, None],
                mask=mask_c[None, :] & (o_k[:, None] < c_in),
                other=0.0,
            )
            y = tl.dot(x, w, y, input_precision=PRECISION)
        keep = mask_m[:, None] & mask_c[None, :]
        if MODE != 0:
            f = noise_tile(
                *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, o_m, i_c, c_out),
                *(BLOCK_M, BLOCK_C, BY_FOUR),
            )
            keep = keep & (f > 0)
        maximum, argmax = take_rows(maximum, argmax, y, keep, o_m, rows)
    tl.store(p_maximum + i_b * c_out + o_c, finish_maximum(maximum), mask=mask_c)
    tl.store(p_argmax + i_b * c_out + o_c, argmax, mask=mask_c)


@jit
def _linear_norm_max_bwd_x_kernel(p_g, p_weight, p_ptr, p_entries, p_dx, c_in, c_out, BLOCK_K: tl.constexpr):
    m = tl.program_id(0).to(tl.int64)
    o_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask_k = o_k < c_in
    dx = tl.zeros((BLOCK_K,), tl.float32)
    for e in range(tl.load(p_ptr + m), tl.load(p_ptr + m + 1)):
        entry = tl.load(p_entries + e)
        w = tl.load(p_weight + (entry % c_out) * c_in + o_k, mask=mask_k, other=0.0).to(tl.float32)
        dx += tl.load(p_g + entry) * w
    tl.store(p_dx + m * c_in + o_k, dx, mask=mask_k)


@jit
def _linear_norm_max_bwd_w_kernel(
    p_g, p_argmax, p_x, p_dweight, clouds, c_in, c_out, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr
):
    o_c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask_c = o_c < c_out
    dweight = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    for b in range(clouds):
        m = tl.load(p_argmax + b * c_out + o_c, mask=mask_c, other=-1)
        g = tl.load(p_g + b * c_out + o_c, mask=mask_c, other=0.0)
        inside = (m >= 0)[:, None] & (o_k[None, :] < c_in)
        x = tl.load(p_x + m[:, None] * c_in + o_k[None, :], mask=inside, other=0.0).to(tl.float32)
        dweight += g[:, None] * x
    o = o_c[:, None] * c_in + o_k[None, :]
    tl.store(p_dweight + o, dweight, mask=mask_c[:, None] & (o_k[None, :] < c_in))
