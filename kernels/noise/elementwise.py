"""The passes over a tensor that BatchNorm, activation and noise share, fused: one to apply them, two for the gradient.

With `z = scale * y + shift` (batch_norm.py), `a(z) = z` for z > 0 and `slope * z` otherwise, and noise factor f:

    norm_apply   out = f a(z)
    norm_sums    dz = dout f a'(z);  sum dz and sum dz y_hat, a channel;  dz itself if asked for
    norm_grad    dy = scale * (dz - mean(dz) - y_hat * mean(dz y_hat))

A y of -inf is a maximum over nothing: its out and its gradient are 0. NaN goes through.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import accumulator, cdiv, jit, next_power_of_2
from dropfold.kernels.noise.draw import Drawn, Noise, draw, noise_row, noise_tile, numba_noise
from dropfold.kernels.norm.batch_norm import ROWS

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

NOISE = "int mode, Tensor factor, Tensor rate, Tensor noise_scale, Tensor seed"


# --- CPU ---------------------------------------------------------------------------------------------------------


@njit(parallel=True)
def _apply_cpu(y, scale, shift, slope, block, mode, factor, rate, noise_scale, seed, out):
    rows, channels = y.shape
    for b in prange((rows + block - 1) // block):
        f = np.empty(channels, np.float32)
        for m in range(b * block, min(rows, (b + 1) * block)):
            noise_row(mode, factor, rate, noise_scale, seed, m, f)
            for c in range(channels):
                z = scale[c] * y[m, c] + shift[c]
                a = f[c] * (z if z > 0 else slope * z)
                out[m, c] = a if y[m, c] != -np.inf else 0


@njit(parallel=True)
def _sums_cpu(
    dout, y, scale, shift, mean, rstd, slope, keep, block, mode, factor, rate, noise_scale, seed, dz, sums,
):  # fmt: skip
    rows, channels = y.shape
    for b in prange(sums.shape[0]):
        f = np.empty(channels, np.float32)
        plain, hatted = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        g = np.empty(channels, y.dtype)
        for m in range(b * block, min(rows, (b + 1) * block)):
            noise_row(mode, factor, rate, noise_scale, seed, m, f)
            for c in range(channels):
                z = scale[c] * y[m, c] + shift[c]
                d = dout[m, c] * f[c]
                d = d if z > 0 else slope * d
                there = y[m, c] != -np.inf
                g[c] = d if there else 0
                plain[c] += g[c]
                hatted[c] += g[c] * ((y[m, c] if there else mean[c]) - mean[c]) * rstd[c]
            if keep:
                dz[m] = g
        sums[b, 0] = plain
        sums[b, 1] = hatted


@njit(parallel=True)
def _grad_cpu(
    dout, y, scale, shift, mean, rstd, mean_dz, mean_dz_hat, slope, block, mode, factor, rate, noise_scale,
    seed, dy,
):  # fmt: skip
    rows, channels = y.shape
    for b in prange((rows + block - 1) // block):
        f = np.empty(channels, np.float32)
        for m in range(b * block, min(rows, (b + 1) * block)):
            noise_row(mode, factor, rate, noise_scale, seed, m, f)
            for c in range(channels):
                z = scale[c] * y[m, c] + shift[c]
                d = dout[m, c] * f[c]
                d = d if z > 0 else slope * d
                hat = (y[m, c] - mean[c]) * rstd[c]
                dy[m, c] = scale[c] * (d - mean_dz[c] - hat * mean_dz_hat[c])


@functools.cache
def scalar(value: float, dtype: torch.dtype) -> Any:
    """A Python float as the NumPy scalar of `dtype`, so that numba computes in that type."""
    return torch.tensor(value, dtype=dtype).numpy()[()]


def _cpu_apply(y: Tensor, scale: Tensor, shift: Tensor, slope: float, *drawn: Any) -> Tensor:
    y, dtype = y.to(scale.dtype), y.dtype
    out = torch.empty_like(y)
    _apply_cpu(y, scale, shift, scalar(slope, scale.dtype), ROWS // 8, *numba_noise(Drawn(*drawn)), out)
    return out.to(dtype)


def _cpu_sums(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float,
    keep: bool, *drawn: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = scale.dtype
    dz, sums = _fake_sums(dout, y, scale, shift, mean, rstd, slope, keep)
    _sums_cpu(
        *(dout.to(dtype), y.to(dtype), scale, shift, mean, rstd, scalar(slope, dtype), keep, ROWS),
        *(*numba_noise(Drawn(*drawn)), dz, sums),
    )
    return dz, sums


def _cpu_grad(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, mean_dz: Tensor,
    mean_dz_hat: Tensor, slope: float, *drawn: Any,
) -> Tensor:  # fmt: skip
    dtype = scale.dtype
    dy = torch.empty_like(y, dtype=dtype)
    vectors = (scale, shift, mean, rstd, mean_dz, mean_dz_hat)
    _grad_cpu(
        *(dout.to(dtype), y.to(dtype), *vectors, scalar(slope, dtype), ROWS // 8),
        *(*numba_noise(Drawn(*drawn)), dy),
    )
    return dy.to(y.dtype)


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def _norm_apply_fwd_kernel(
    p_y, p_scale, p_shift, slope, p_factor, p_rate, p_noise_scale, p_seed, p_out, rows, channels,
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
    a = tl.where(z > 0, z, slope * z)
    if MODE != 0:
        a *= noise_tile(
            *(MODE, p_factor, p_rate, p_noise_scale, p_seed, rows, o_m, i_c, channels),
            *(BLOCK_M, BLOCK_C, BY_FOUR),
        )
    a = tl.where(y != float("-inf"), a, 0.0)
    tl.store(p_out + o, a.to(p_out.dtype.element_ty), mask=inside)


@jit
def _norm_sums_bwd_kernel(
    p_dout, p_y, p_scale, p_shift, p_mean, p_rstd, slope, p_factor, p_rate, p_noise_scale, p_seed, p_dz,
    p_sums, rows, channels, MODE: tl.constexpr, KEEP: tl.constexpr, ROWS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    i_block = tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    there_c = o_c < channels
    scale = tl.load(p_scale + o_c, mask=there_c, other=0.0)
    shift = tl.load(p_shift + o_c, mask=there_c, other=0.0)
    mean = tl.load(p_mean + o_c, mask=there_c, other=0.0)
    rstd = tl.load(p_rstd + o_c, mask=there_c, other=0.0)
    plain = tl.zeros((BLOCK_C,), tl.float32)
    hatted = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, ROWS, BLOCK_M):
        o_m = i_block * ROWS + start + tl.arange(0, BLOCK_M)
        inside = (o_m[:, None] < rows) & there_c[None, :]
        o = o_m[:, None] * channels + o_c[None, :]
        y = tl.load(p_y + o, mask=inside, other=0.0).to(tl.float32)
        dz = tl.load(p_dout + o, mask=inside, other=0.0).to(tl.float32)
        if MODE != 0:
            dz *= noise_tile(
                *(MODE, p_factor, p_rate, p_noise_scale, p_seed, rows, o_m, i_c, channels),
                *(BLOCK_M, BLOCK_C, BY_FOUR),
            )
        z = scale[None, :] * y + shift[None, :]
        dz = tl.where(z > 0, dz, slope * dz)
        there = y != float("-inf")
        dz = tl.where(there, dz, 0.0)
        hat = tl.where(there, (y - mean[None, :]) * rstd[None, :], 0.0)
        plain += tl.sum(dz, axis=0)
        hatted += tl.sum(dz * hat, axis=0)
        if KEEP:
            tl.store(p_dz + o, dz, mask=inside)
    o = i_block * 2 * channels + o_c
    tl.store(p_sums + o, plain, mask=there_c)
    tl.store(p_sums + o + channels, hatted, mask=there_c)


@jit
def _norm_grad_bwd_kernel(
    p_dout, p_y, p_scale, p_shift, p_mean, p_rstd, p_mean_dz, p_mean_dz_hat, slope, p_factor, p_rate,
    p_noise_scale, p_seed, p_dy, rows, channels, MODE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    o = o_m[:, None] * channels + o_c[None, :]
    there_c = o_c < channels
    inside = (o_m[:, None] < rows) & there_c[None, :]
    y = tl.load(p_y + o, mask=inside, other=0.0).to(tl.float32)
    dz = tl.load(p_dout + o, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(p_scale + o_c, mask=there_c, other=0.0)[None, :]
    shift = tl.load(p_shift + o_c, mask=there_c, other=0.0)[None, :]
    mean = tl.load(p_mean + o_c, mask=there_c, other=0.0)[None, :]
    rstd = tl.load(p_rstd + o_c, mask=there_c, other=0.0)[None, :]
    mean_dz = tl.load(p_mean_dz + o_c, mask=there_c, other=0.0)[None, :]
    mean_dz_hat = tl.load(p_mean_dz_hat + o_c, mask=there_c, other=0.0)[None, :]
    if MODE != 0:
        dz *= noise_tile(
            *(MODE, p_factor, p_rate, p_noise_scale, p_seed, rows, o_m, i_c, channels),
            *(BLOCK_M, BLOCK_C, BY_FOUR),
        )
    dz = tl.where(scale * y + shift > 0, dz, slope * dz)
    dy = scale * (dz - mean_dz - (y - mean) * rstd * mean_dz_hat)
    tl.store(p_dy + o, dy.to(p_dy.dtype.element_ty), mask=inside)


def _tile(channels: int) -> dict[str, int]:
    """Tiles of 2,048 elements, whole cache lines wide."""
    block_c = min(128, max(16, next_power_of_2(channels)))
    return {"BLOCK_M": 2048 // block_c, "BLOCK_C": block_c, "BY_FOUR": channels % 4 == 0}


def _launch_apply(
    y: Tensor, scale: Tensor, shift: Tensor, slope: float, mode: int, factor: Tensor, rate: Tensor,
    noise_scale: Tensor, seed: Tensor,
) -> Tensor:  # fmt: skip
    (rows, channels), tile = y.shape, _tile(y.shape[1])
    out = torch.empty_like(y)
    _norm_apply_fwd_kernel[(cdiv(rows, tile["BLOCK_M"]), cdiv(channels, tile["BLOCK_C"]))](
        *(y, scale, shift, slope, factor, rate, noise_scale, seed, out, rows, channels), MODE=mode, **tile
    )
    return out


def _launch_sums(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float,
    keep: bool, mode: int, factor: Tensor, rate: Tensor, noise_scale: Tensor, seed: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (rows, channels), tile = y.shape, _tile(y.shape[1])
    dz, sums = _fake_sums(dout, y, scale, shift, mean, rstd, slope, keep)
    _norm_sums_bwd_kernel[(sums.shape[0], cdiv(channels, tile["BLOCK_C"]))](
        *(
            dout,
            y,
            scale,
            shift,
            mean,
            rstd,
            slope,
            factor,
            rate,
            noise_scale,
            seed,
            dz,
            sums,
            rows,
            channels,
        ),
        **{"MODE": mode, "KEEP": keep, "ROWS": ROWS, **tile},
    )
    return dz, sums


def _launch_grad(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, mean_dz: Tensor,
    mean_dz_hat: Tensor, slope: float, mode: int, factor: Tensor, rate: Tensor, noise_scale: Tensor,
    seed: Tensor,
) -> Tensor:  # fmt: skip
    (rows, channels), tile = y.shape, _tile(y.shape[1])
    dy = torch.empty_like(y)
    _norm_grad_bwd_kernel[(cdiv(rows, tile["BLOCK_M"]), cdiv(channels, tile["BLOCK_C"]))](
        *(dout, y, scale, shift, mean, rstd, mean_dz, mean_dz_hat, slope, factor, rate, noise_scale, seed),
        *(dy, rows, channels),
        **{"MODE": mode, **tile},
    )
    return dy


# --- operators ---------------------------------------------------------------------------------------------------


def _fake_sums(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float,
    keep: bool, *_: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = accumulator(y.dtype)
    dz = y.new_empty(y.shape if keep else (0, y.shape[1]), dtype=dtype)
    return dz, y.new_empty((cdiv(y.shape[0], ROWS), 2, y.shape[1]), dtype=dtype)


norm_apply = operator(
    f"norm_apply(Tensor y, Tensor scale, Tensor shift, float slope, {NOISE}) -> Tensor",
    cpu=_cpu_apply,
    triton=_launch_apply,
    fake=lambda y, *_: torch.empty_like(y),
)
_norm_sums = operator(
    "norm_sums(Tensor dout, Tensor y, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, float slope, bool keep, "
    f"{NOISE}) -> (Tensor, Tensor)",
    cpu=_cpu_sums,
    triton=_launch_sums,
    fake=_fake_sums,
)
norm_grad = operator(
    "norm_grad(Tensor dout, Tensor y, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, Tensor mean_dz, "
    f"Tensor mean_dz_hat, float slope, {NOISE}) -> Tensor",
    cpu=_cpu_grad,
    triton=_launch_grad,
    fake=lambda dout, y, *_: torch.empty_like(y),
)


def norm_sums(*args: Any) -> tuple[Tensor, Tensor]:
    """`(dz [M, C] or empty, sums [2, C] of dz and dz y_hat)`: the blocks' sums, added in float64."""
    dz, blocks = _norm_sums(*args)
    return dz, blocks.sum(0, dtype=torch.float64).to(blocks.dtype)


class _Drop(torch.autograd.Function):
    """x times the factor of a noise; the gradient is the same map, drawn again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
        ctx.save_for_backward(ptr)
        ctx.noise = noise
        return _multiply(x, ptr, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (ptr,) = ctx.saved_tensors
        return _multiply(dout.contiguous(), ptr, ctx.noise), None, None


def _multiply(x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
    one = torch.ones(x.shape[1], dtype=accumulator(x.dtype), device=x.device)
    return norm_apply(x, one, torch.zeros_like(one), 1.0, *draw(noise, ptr, x.shape[0]))


def drop(x: Tensor, ptr: Tensor, noise: Noise) -> Tensor:
    """Rows x [M, C] times the factors of `noise`."""
    if not x.is_floating_point():
        raise ValueError(
            f"noise scales what it keeps, so x must be of a floating-point type; got {describe(x)}."
        )
    return _Drop.apply(x.contiguous(), ptr, noise)
