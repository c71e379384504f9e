"""The passes of BatchNorm, activation and noise on the CPU: a thread takes blocks of rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw.cpu import noise_row, numba_noise
from dropfold.kernels.noise.elementwise.operation import ROWS_PER_SUM, empty_sums

ROWS_PER_BLOCK = 32  # which a thread takes at a time


@njit(inline=True)
def leaky_relu(z, slope):
    """z where it is positive, and slope z elsewhere; with slope 0, a ReLU, 0 of -inf too. NaN stays NaN."""
    elsewhere = slope * z if slope != 0 else z if z != z else slope
    return z if z > 0 else elsewhere


@njit(parallel=True)
def _apply(y, scale, shift, slope, mode, keep_scale, p, noise_scale, seed, out):
    rows, channels = y.shape
    for b in prange((rows + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK):
        f = np.empty(channels, np.float32)
        for m in range(b * ROWS_PER_BLOCK, min(rows, (b + 1) * ROWS_PER_BLOCK)):
            noise_row(mode, keep_scale, p, noise_scale, seed, m, f)
            for c in range(channels):
                z = scale[c] * y[m, c] + shift[c]
                out[m, c] = f[c] * leaky_relu(z, slope)


@njit(parallel=True)
def _sum(dout, y, scale, shift, mean, rstd, slope, keep, mode, keep_scale, p, noise_scale, seed, dz, sums):
    rows, channels = y.shape
    for b in prange(sums.shape[0]):
        f = np.empty(channels, np.float32)
        sum_dz, sum_dz_hat = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        g = np.empty(channels, y.dtype)
        for m in range(b * ROWS_PER_SUM, min(rows, (b + 1) * ROWS_PER_SUM)):
            noise_row(mode, keep_scale, p, noise_scale, seed, m, f)
            for c in range(channels):
                z = scale[c] * y[m, c] + shift[c]
                d = dout[m, c] * f[c]
                d = d if z > 0 else slope * d
                g[c] = d
                sum_dz[c] += d
                sum_dz_hat[c] += d * (y[m, c] - mean[c]) * rstd[c]
            if keep:
                dz[m] = g
        sums[b, 0] = sum_dz
        sums[b, 1] = sum_dz_hat


@njit(parallel=True)
def _differentiate(
    dout, y, scale, shift, mean, rstd, mean_dz, mean_dz_hat, slope, mode, keep_scale, p, noise_scale, seed, dy
):
    rows, channels = y.shape
    for b in prange((rows + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK):
        f = np.empty(channels, np.float32)
        for m in range(b * ROWS_PER_BLOCK, min(rows, (b + 1) * ROWS_PER_BLOCK)):
            noise_row(mode, keep_scale, p, noise_scale, seed, m, f)
            for c in range(channels):
                z = scale[c] * y[m, c] + shift[c]
                d = dout[m, c] * f[c]
                d = d if z > 0 else slope * d
                shared = (y[m, c] - mean[c]) * rstd[c] * mean_dz_hat[c]
                if mean_dz_hat[c] == 0 and y[m, c] == y[m, c]:  # in evaluation; infinity times 0 would be NaN
                    shared = mean_dz_hat[c]
                dy[m, c] = scale[c] * (d - mean_dz[c] - shared)


@functools.cache
def scalar(value: float, dtype: torch.dtype) -> Any:
    """A Python float as the NumPy scalar of `dtype`, so that numba computes in that type."""
    return torch.tensor(value, dtype=dtype).numpy()[()]


def norm_apply(y: Tensor, scale: Tensor, shift: Tensor, slope: float, *noise: Any) -> Tensor:
    y, dtype = y.to(scale.dtype), y.dtype
    out = torch.empty_like(y)
    launch(_apply, y, scale, shift, scalar(slope, scale.dtype), *numba_noise(NoiseArguments(*noise)), out)
    return out.to(dtype)


def norm_sums(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float,
    keep: bool, *noise: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = scale.dtype
    dz, sums = empty_sums(dout, y, scale, shift, mean, rstd, slope, keep)
    launch(
        _sum,
        *(dout.to(dtype), y.to(dtype), scale, shift, mean, rstd, scalar(slope, dtype), keep),
        *(*numba_noise(NoiseArguments(*noise)), dz, sums),
    )
    return dz, sums


def norm_grad(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, mean_dz: Tensor,
    mean_dz_hat: Tensor, slope: float, *noise: Any,
) -> Tensor:  # fmt: skip
    dtype = scale.dtype
    dy = torch.empty_like(y, dtype=dtype)
    vectors = (scale, shift, mean, rstd, mean_dz, mean_dz_hat)
    launch(
        _differentiate,
        *(dout.to(dtype), y.to(dtype), *vectors, scalar(slope, dtype)),
        *(*numba_noise(NoiseArguments(*noise)), dy),
    )
    return dy.to(y.dtype)
