"""draw on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw.drawn import Drawn
from dropfold.kernels.noise.philox.cpu import philox_words, uniform_at, word_to_uniform
from dropfold.kernels.noise.philox.operation import uniform
from dropfold.kernels.points.clouds import check_rows


@njit(parallel=True)
def _kept_cpu(u, thresholds, neighbours, out):
    rows, k = neighbours.shape
    for i in prange(rows):
        first, lowest, members = neighbours[i, 0], np.float32(1), 1
        for pos in range(k):
            j = neighbours[i, pos]
            lowest = min(lowest, u[j])
            members += j != first
        out[i] = lowest >= thresholds[members]


def kept_points(seed: Tensor, thresholds: Tensor, neighbours: Tensor | None, rows: int) -> Tensor:
    u = uniform(seed, rows)
    if neighbours is None:
        return (u >= thresholds).to(torch.float32)
    out = torch.empty(rows)
    check_rows(neighbours, rows)
    launch(_kept_cpu, u, thresholds, neighbours, out)
    return out


@njit
def noise_span(rate, scale, seed, start, f):
    """DropFeat's factors of the elements start, start + 1, ... of a tensor, to f."""
    n, c = f.shape[0], 0
    while c < n and (start + c) & 3:
        f[c] = scale if uniform_at(seed, start + c) >= rate else 0
        c += 1
    # A slice, so that the loop's first index is a constant: otherwise it is not vectorised.
    first, aligned = (start + c) >> 2, f[c:]
    for q in range(aligned.shape[0] // 4):
        w0, w1, w2, w3 = philox_words(seed, first + q)
        aligned[4 * q] = scale if word_to_uniform(w0) >= rate else 0
        aligned[4 * q + 1] = scale if word_to_uniform(w1) >= rate else 0
        aligned[4 * q + 2] = scale if word_to_uniform(w2) >= rate else 0
        aligned[4 * q + 3] = scale if word_to_uniform(w3) >= rate else 0
    for last in range(c + (n - c) // 4 * 4, n):
        f[last] = scale if uniform_at(seed, start + last) >= rate else 0


@njit
def noise_row(mode, factor, rate, scale, seed, m, f):
    """Write the factors of row m's elements to f [C]."""
    if mode == 0:
        f[:] = 1
    elif mode == 2:
        f[:] = factor[m]
    else:
        noise_span(rate, scale, seed, m * f.shape[0], f)


def numba_noise(drawn: Drawn) -> tuple[Any, ...]:
    """`Drawn` as the arguments (mode, factor, rate, scale, seed) of `noise_row`."""
    return (
        drawn.mode,
        drawn.factor,
        np.float32(drawn.rate.item()),
        np.float32(drawn.scale.item()),
        int(drawn.seed.item()),
    )
