"""linear_norm_max on the CPU: the product a tile at a time, and the max of each tile while it is in the cache."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.gemm import mm
from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw.cpu import noise_span, numba_noise
from dropfold.kernels.norm.linear_norm_max.operation import empty_maximum

ROWS_PER_TILE = 512  # of y: [512, 1024] float32 stays in the cache


def linear_norm_max_fwd(x: Tensor, weight: Tensor, ptr: Tensor, *noise: Any) -> tuple[Tensor, Tensor]:
    maximum, argmax = empty_maximum(x, weight, ptr)
    maximum.fill_(-torch.inf)
    argmax.fill_(-1)
    noise = numba_noise(NoiseArguments(*noise))
    for b, (start, stop) in enumerate(pairwise(ptr.tolist())):
        for first in range(start, stop, ROWS_PER_TILE):
            y = mm(x[first : min(first + ROWS_PER_TILE, stop)], weight.T)
            launch(_take_tile, y.to(maximum.dtype), first, *noise, maximum[b], argmax[b])
    return maximum, argmax


def linear_norm_max_bwd(g: Tensor, argmax: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dx, dweight = torch.zeros_like(x, dtype=g.dtype), torch.zeros_like(weight, dtype=g.dtype)
    launch(_scatter_to_rows, g, argmax, weight.to(g.dtype), dx)
    launch(_collect_rows, g, argmax, x.to(g.dtype), dweight)
    return dx, dweight


@njit(parallel=True)
def _take_tile(y, start, mode, keep_scale, p, noise_scale, seed, maximum, argmax):
    """Take the rows y of one tile into the running maxima of one cloud; channels in blocks share the cores."""
    rows, channels = y.shape
    for block in prange((channels + 127) // 128):
        lo, hi = block * 128, min(channels, (block + 1) * 128)
        f = np.empty(hi - lo, np.float32)
        best, arg = maximum[lo:hi].copy(), np.full(hi - lo, -1, np.int32)
        for m in range(rows):
            if mode == 2 and keep_scale[start + m] == 0:
                continue
            if mode == 1:
                noise_span(p, noise_scale, seed, (start + m) * channels + lo, f)
            row = y[m, lo:hi]
            for c in range(hi - lo):
                # Read before any store: what a store may change is not vectorised.
                value, largest = row[c], best[c]
                better = (value > largest) | (value != value)
                if mode == 1:
                    better &= f[c] > 0
                arg[c] = np.int32(m) if better else arg[c]
                best[c] = value if better else largest
        for c in range(hi - lo):
            if arg[c] >= 0:
                maximum[lo + c] = best[c]
                argmax[lo + c] = start + arg[c]


@njit(parallel=True)
def _scatter_to_rows(g, argmax, weight, dx):
    """dx[argmax[b, c]] += g[b, c] weight[c]: a cloud a thread, so that no two threads share a row."""
    for b in prange(argmax.shape[0]):
        for c in range(argmax.shape[1]):
            m = argmax[b, c]
            if m >= 0 and g[b, c] != 0:
                for i in range(dx.shape[1]):
                    dx[m, i] += g[b, c] * weight[c, i]


@njit(parallel=True)
def _collect_rows(g, argmax, x, dweight):
    """dweight[c] += sum_b g[b, c] x[argmax[b, c]]."""
    for c in prange(argmax.shape[1]):
        for b in range(argmax.shape[0]):
            m = argmax[b, c]
            if m >= 0 and g[b, c] != 0:
                for i in range(x.shape[1]):
                    dweight[c, i] += g[b, c] * x[m, i]
