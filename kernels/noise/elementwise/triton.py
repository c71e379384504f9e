"""The passes of BatchNorm, activation and noise in Triton."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.noise.draw.triton import noise_tile
from dropfold.kernels.noise.elementwise.operation import ROWS_PER_SUM, empty_sums


@jit
def leaky_relu(z, slope):
    """z where it is positive, and slope z elsewhere; with slope 0, a ReLU, 0 of -inf too. NaN stays NaN."""
    return tl.where((slope == 0) & (z <= 0), 0.0, tl.where(z > 0, z, slope * z))


@jit
def _norm_apply_fwd_kernel(
    p_y, p_scale, p_shift, slope, p_keep_scale, p_probability, p_noise_scale, p_seed, p_out, rows, channels,
    MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    o = o_m[:, None] * channels + o_c[None, :]
    inside = (o_m[:, None] < rows) & (o_c[None, :] < channels)
    y = tl.load(p_y + o, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(p_scale + o_c, mask=o_c < channels, other=0.0)
    shift = tl.load(p_shift + o_c, mask=o_c < channels, other=0.0)
    z = scale[None, :] * y + shift[None, :]
    a = leaky_relu(z, slope)
    if MODE != 0:
        a *= noise_tile(
            *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, o_m, i_c, channels),
            *(BLOCK_M, BLOCK_C, BY_FOUR),
        )
    tl.store(p_out + o, a.to(p_out.dtype.element_ty), mask=inside)


@jit
def _norm_sums_bwd_kernel(
    p_dout, p_y, p_scale, p_shift, p_mean, p_rstd, slope, p_keep_scale, p_probability, p_noise_scale, p_seed, p_dz,
    p_sums, rows, channels, MODE: tl.constexpr, KEEP: tl.constexpr, ROWS_PER_SUM: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    i_block = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    scale = tl.load(p_scale + o_c, mask=mask_c, other=0.0)
    shift = tl.load(p_shift + o_c, mask=mask_c, other=0.0)
    mean = tl.load(p_mean + o_c, mask=mask_c, other=0.0)
    rstd = tl.load(p_rstd + o_c, mask=mask_c, other=0.0)
    sum_dz = tl.zeros((BLOCK_C,), tl.float32)
    sum_dz_hat = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, ROWS_PER_SUM, BLOCK_M):
        o_m = i_block * ROWS_PER_SUM + start + tl.arange(0, BLOCK_M)
        inside = (o_m[:, None] < rows) & mask_c[None, :]
        o = o_m[:, None] * channels + o_c[None, :]
        y = tl.load(p_y + o, mask=inside, other=0.0).to(tl.float32)
        dz = tl.load(p_dout + o, mask=inside, other=0.0).to(tl.float32)
        if MODE != 0:
            dz *= noise_tile(
                *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, o_m, i_c, channels),
                *(BLOCK_M, BLOCK_C, BY_FOUR),
            )
        z = scale[None, :] * y + shift[None, :]
        dz = tl.where(z > 0, dz, slope * dz)
        sum_dz += tl.sum(dz, axis=0)
        sum_dz_hat += tl.sum(dz * (y - mean[None, :]) * rstd[None, :], axis=0)
        if KEEP:
            tl.store(p_dz + o, dz, mask=inside)
    o = i_block * 2 * channels + o_c
    tl.store(p_sums + o, sum_dz, mask=mask_c)
    tl.store(p_sums + o + channels, sum_dz_hat, mask=mask_c)


@jit
def _norm_grad_bwd_kernel(
    p_dout, p_y, p_scale, p_shift, p_mean, p_rstd, p_mean_dz, p_mean_dz_hat, slope, p_keep_scale, p_probability,
    p_noise_scale, p_seed, p_dy, rows, channels, MODE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    o = o_m[:, None] * channels + o_c[None, :]
    mask_c = o_c < channels
    inside = (o_m[:, None] < rows) & mask_c[None, :]
    y = tl.load(p_y + o, mask=inside, other=0.0).to(tl.float32)
    dz = tl.load(p_dout + o, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(p_scale + o_c, mask=mask_c, other=0.0)[None, :]
    shift = tl.load(p_shift + o_c, mask=mask_c, other=0.0)[None, :]
    mean = tl.load(p_mean + o_c, mask=mask_c, other=0.0)[None, :]
    rstd = tl.load(p_rstd + o_c, mask=mask_c, other=0.0)[None, :]
    mean_dz = tl.load(p_mean_dz + o_c, mask=mask_c, other=0.0)[None, :]
    mean_dz_hat = tl.load(p_mean_dz_hat + o_c, mask=mask_c, other=0.0)[None, :]
    if MODE != 0:
        dz *= noise_tile(
            *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, rows, o_m, i_c, channels),
            *(BLOCK_M, BLOCK_C, BY_FOUR),
        )
    dz = tl.where(scale * y + shift > 0, dz, slope * dz)
    shared = (y - mean) * rstd * mean_dz_hat
    shared = tl.where(
        (mean_dz_hat == 0) & (y == y), 0.0, shared
    )  # in evaluation; infinity times 0 would be NaN
    tl.store(p_dy + o, (scale * (dz - mean_dz - shared)).to(p_dy.dtype.element_ty), mask=inside)


def _tile(channels: int) -> dict[str, int]:
    """The shape of a tile: 2,048 elements, whole cache lines wide."""
    block_c = min(128, max(16, next_power_of_2(channels)))
    return {"BLOCK_M": 2048 // block_c, "BLOCK_C": block_c, "BY_FOUR": channels % 4 == 0}


def norm_apply(
    y: Tensor, scale: Tensor, shift: Tensor, slope: float, mode: int, keep_scale: Tensor, p: Tensor,
    noise_scale: Tensor, seed: Tensor,
) -> Tensor:  # fmt: skip
    (rows, channels), tile = y.shape, _tile(y.shape[1])
    out = torch.empty_like(y)
    _norm_apply_fwd_kernel[(cdiv(rows, tile["BLOCK_M"]), cdiv(channels, tile["BLOCK_C"]))](
        *(y, scale, shift, slope, keep_scale, p, noise_scale, seed, out, rows, channels), MODE=mode, **tile
    )
    return out


def norm_sums(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float,
    keep: bool, mode: int, keep_scale: Tensor, p: Tensor, noise_scale: Tensor, seed: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (rows, channels), tile = y.shape, _tile(y.shape[1])
    dz, sums = empty_sums(dout, y, scale, shift, mean, rstd, slope, keep)
    _norm_sums_bwd_kernel[(sums.shape[0], cdiv(channels, tile["BLOCK_C"]))](
        *(dout, y, scale, shift, mean, rstd, slope, keep_scale, p, noise_scale, seed, dz, sums),
        *(rows, channels),
        **{"MODE": mode, "KEEP": keep, "ROWS_PER_SUM": ROWS_PER_SUM, **tile},
    )
    return dz, sums


def norm_grad(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, mean_dz: Tensor,
    mean_dz_hat: Tensor, slope: float, mode: int, keep_scale: Tensor, p: Tensor, noise_scale: Tensor,
    seed: Tensor,
) -> Tensor:  # fmt: skip
    (rows, channels), tile = y.shape, _tile(y.shape[1])
    dy = torch.empty_like(y)
    _norm_grad_bwd_kernel[(cdiv(rows, tile["BLOCK_M"]), cdiv(channels, tile["BLOCK_C"]))](
        *(dout, y, scale, shift, mean, rstd, mean_dz, mean_dz_hat, slope, keep_scale, p, noise_scale, seed),
        *(dy, rows, channels),
        **{"MODE": mode, **tile},
    )
    return dy
