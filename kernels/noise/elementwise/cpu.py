"""elementwise on the CPU."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw.cpu import noise_row, numba_noise
from dropfold.kernels.noise.draw.drawn import Drawn
from dropfold.kernels.noise.elementwise.outputs import ROWS, _fake_sums


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


def norm_apply(y: Tensor, scale: Tensor, shift: Tensor, slope: float, *drawn: Any) -> Tensor:
    y, dtype = y.to(scale.dtype), y.dtype
    out = torch.empty_like(y)
    launch(
        _apply_cpu, y, scale, shift, scalar(slope, scale.dtype), ROWS // 8, *numba_noise(Drawn(*drawn)), out
    )
    return out.to(dtype)


def norm_sums(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float,
    keep: bool, *drawn: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = scale.dtype
    dz, sums = _fake_sums(dout, y, scale, shift, mean, rstd, slope, keep)
    launch(
        _sums_cpu,
        *(dout.to(dtype), y.to(dtype), scale, shift, mean, rstd, scalar(slope, dtype), keep, ROWS),
        *(*numba_noise(Drawn(*drawn)), dz, sums),
    )
    return dz, sums


def norm_grad(
    dout: Tensor, y: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, mean_dz: Tensor,
    mean_dz_hat: Tensor, slope: float, *drawn: Any,
) -> Tensor:  # fmt: skip
    dtype = scale.dtype
    dy = torch.empty_like(y, dtype=dtype)
    vectors = (scale, shift, mean, rstd, mean_dz, mean_dz_hat)
    launch(
        _grad_cpu,
        *(dout.to(dtype), y.to(dtype), *vectors, scalar(slope, dtype), ROWS // 8),
        *(*numba_noise(Drawn(*drawn)), dy),
    )
    return dy.to(y.dtype)
