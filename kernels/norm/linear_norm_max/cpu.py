"""linear_norm_max on the CPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.gemm import mm
from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw.cpu import noise_span, numba_noise
from dropfold.kernels.noise.draw.drawn import Drawn
from dropfold.kernels.norm.linear_norm_max.outputs import _fake_max

TILE = 512  # rows of y that are made at a time on the CPU: [512, 1024] float32 stays in the cache


@njit(parallel=True)
def _max_cpu(y, start, mode, factor, rate, noise_scale, seed, top, where):
    """Take the rows y of one tile into the running maxima of one cloud; channels in blocks share the cores."""
    rows, channels = y.shape
    for block in prange((channels + 127) // 128):
        lo, hi = block * 128, min(channels, (block + 1) * 128)
        f = np.empty(hi - lo, np.float32)
        best, arg = top[lo:hi].copy(), np.full(hi - lo, -1, np.int32)
        for m in range(rows):
            if mode == 2 and factor[start + m] == 0:
                continue
            if mode == 1:
                noise_span(rate, noise_scale, seed, (start + m) * channels + lo, f)
            row = y[m, lo:hi]
            for c in range(hi - lo):
                # Read before any store: what a store may change is not vectorised.
                value, held = row[c], best[c]
                better = (value > held) | (value != value)
                if mode == 1:
                    better &= f[c] > 0
                arg[c] = np.int32(m) if better else arg[c]
                best[c] = value if better else held
        for c in range(hi - lo):
            if arg[c] >= 0:
                top[lo + c] = best[c]
                where[lo + c] = start + arg[c]


@njit(parallel=True)
def _scatter_cpu(g, where, weight, dx):
    """dx[where[b, c]] += g[b, c] weight[c]: a cloud a thread, so that no two threads share a row."""
    for b in prange(where.shape[0]):
        for c in range(where.shape[1]):
            m = where[b, c]
            if m >= 0 and g[b, c] != 0:
                for i in range(dx.shape[1]):
                    dx[m, i] += g[b, c] * weight[c, i]


@njit(parallel=True)
def _collect_cpu(g, where, x, dweight):
    """dweight[c] += sum_b g[b, c] x[where[b, c]]."""
    for c in prange(where.shape[1]):
        for b in range(where.shape[0]):
            m = where[b, c]
            if m >= 0 and g[b, c] != 0:
                for i in range(x.shape[1]):
                    dweight[c, i] += g[b, c] * x[m, i]


def linear_norm_max_fwd(x: Tensor, weight: Tensor, ptr: Tensor, *drawn: Any) -> tuple[Tensor, Tensor]:
    top, where = _fake_max(x, weight, ptr)
    top.fill_(-torch.inf)
    where.fill_(-1)
    noise = numba_noise(Drawn(*drawn))
    for b, (start, stop) in enumerate(pairwise(ptr.tolist())):
        for first in range(start, stop, TILE):
            y = mm(x[first : min(first + TILE, stop)], weight.T)
            launch(_max_cpu, y.to(top.dtype), first, *noise, top[b], where[b])
    return top, where


def linear_norm_max_bwd(g: Tensor, where: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dx, dweight = torch.zeros_like(x, dtype=g.dtype), torch.zeros_like(weight, dtype=g.dtype)
    launch(_scatter_cpu, g, where, weight.to(g.dtype), dx)
    launch(_collect_cpu, g, where, x.to(g.dtype), dweight)
    return dx, dweight
