"""norm_pool on the CPU: a cloud a thread forward, some rows a thread backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw.cpu import noise_row, numba_noise
from dropfold.kernels.noise.elementwise.cpu import leaky_relu, scalar
from dropfold.kernels.norm.norm_pool.operation import empty_pools


def norm_pool_fwd(
    y: Tensor, ptr: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, slope: float, *noise: Any
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    maximum, argmax, sums = empty_pools(y, ptr, scale)
    launch(
        _pool,
        *(y.to(scale.dtype), ptr, scale, shift, mean, rstd, scalar(slope, scale.dtype)),
        *(*numba_noise(NoiseArguments(*noise)), maximum, argmax, sums),
    )
    return maximum, argmax, sums


def norm_pool_bwd(
    y: Tensor, batch: Tensor, vectors: Tensor, dmax: Tensor, dmean: Tensor, argmax: Tensor, slope: float,
    first: int, stop: int, *noise: Any,
) -> Tensor:  # fmt: skip
    dtype = vectors.dtype
    dy = torch.empty_like(y[first:stop], dtype=dtype)
    launch(
        _unpool,
        *(y[first:stop].to(dtype), batch, *vectors.unbind(0), dmax, dmean, argmax),
        *(scalar(slope, dtype), 32, first, *numba_noise(NoiseArguments(*noise)), dy),
    )
    return dy.to(y.dtype)


@njit(parallel=True)
def _pool(
    y, ptr, scale, shift, mean, rstd, slope, mode, keep_scale, p, noise_scale, seed, maximum, argmax, sums
):
    channels = y.shape[1]
    zero, one = y.dtype.type(0), y.dtype.type(1)
    for b in prange(ptr.shape[0] - 1):
        f = np.empty(channels, np.float32)
        best = np.full(channels, -np.inf, y.dtype)
        arg = np.full(channels, -1, np.int64)
        count, total = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        slopes, y_hats = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        for m in range(ptr[b], ptr[b + 1]):
            noise_row(mode, keep_scale, p, noise_scale, seed, m, f)
            if mode == 2 and f[0] == 0:
                continue
            for c in range(channels):
                # Arrays are read once, before any store: what a store may change is not vectorised.
                keep, largest, value = f[c] > 0, best[c], y[m, c]
                z = scale[c] * value + shift[c]
                da = one if z > 0 else slope
                a = leaky_relu(z, slope)
                better = keep & ((a > largest) | (a != a))
                arg[c] = m if better else arg[c]
                best[c] = a if better else largest
                da = da if keep else zero
                count[c] += one if keep else zero
                total[c] += a if keep else zero
                slopes[c] += da
                y_hats[c] += da * (value - mean[c]) * rstd[c]
        maximum[b] = best
        argmax[b] = arg
        sums[b, 0] = count
        sums[b, 1] = total
        sums[b, 2] = slopes
        sums[b, 3] = y_hats


@njit(parallel=True)
def _unpool(
    y, batch, scale, shift, mean, rstd, mean_dz, mean_dz_hat, dmax, dmean, argmax, slope, block, first, mode,
    keep_scale, p, noise_scale, seed, dy,
):  # fmt: skip
    rows, channels = dy.shape
    # dy = scale * dz + constant - linear * y
    linear = scale * rstd * mean_dz_hat
    constant = linear * mean - scale * mean_dz
    zero = y.dtype.type(0)
    for chunk in prange((rows + block - 1) // block):
        f = np.empty(channels, np.float32)
        for m in range(chunk * block, min(rows, (chunk + 1) * block)):
            noise_row(mode, keep_scale, p, noise_scale, seed, first + m, f)
            b = batch[first + m]
            for c in range(channels):
                value = y[m, c]
                d = scale[c] * dmean[b, c]
                d = d if scale[c] * value + shift[c] > 0 else slope * d
                d = d if f[c] > 0 else zero
                dy[m, c] = d + constant[c] - linear[c] * value
    for b in prange(argmax.shape[0]):
        for c in range(channels):
            m = argmax[b, c] - first
            if 0 <= m < rows:
                d = scale[c] * dmax[b, c]
                dy[m, c] += d if scale[c] * y[m, c] + shift[c] > 0 else slope * d
