"""Drawing noise on the CPU: which points are kept, and the keep scales of a row, for loops that carry noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw.arguments import NONE, ROWS, NoiseArguments
from dropfold.kernels.noise.philox.cpu import philox_words, uniform, uniform_at, word_to_uniform
from dropfold.kernels.points.clouds import check_rows
from dropfold.kernels.points.knn.cpu import knn, near_marked

LARGEST_COORDINATE = 1e15  # no sum of squares of such numbers overflows float32


@njit(parallel=True)
def _keep_clusters(u, thresholds, neighbours, out):
    """1 for a point if no member of its neighbourhood has a number below the threshold for that many distinct members."""
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
    launch(_keep_clusters, u, thresholds, neighbours, out)
    return out


def kept_by_nearest(seed: Tensor, thresholds: Tensor, x: Tensor, ptr: Tensor) -> Tensor:
    k, rows = thresholds.shape[0] - 1, x.shape[0]
    # NaN is nobody's neighbour: beside it, or where distances overflow, a list may have fewer than k distinct members.
    if x.numel() and x.abs().amax().item() <= LARGEST_COORDINATE and bool((ptr.diff() >= k).all()):
        seeds = uniform(seed, rows) < thresholds[k]
        return (~near_marked(x, ptr, k, seeds)).to(torch.float32)
    return kept_points(seed, thresholds, knn(x, ptr, k), rows)


@njit
def noise_span(p, noise_scale, seed, start, f):
    """Write DropFeat's keep scales of the elements start, start + 1, ... of a tensor to f."""
    n, c = f.shape[0], 0
    while c < n and (start + c) & 3:
        f[c] = noise_scale if uniform_at(seed, start + c) >= p else 0
        c += 1
    # The slice makes the loop's first index a constant, without which it is not vectorised.
    first, aligned = (start + c) >> 2, f[c:]
    for q in range(aligned.shape[0] // 4):
        w0, w1, w2, w3 = philox_words(seed, first + q)
        aligned[4 * q] = noise_scale if word_to_uniform(w0) >= p else 0
        aligned[4 * q + 1] = noise_scale if word_to_uniform(w1) >= p else 0
        aligned[4 * q + 2] = noise_scale if word_to_uniform(w2) >= p else 0
        aligned[4 * q + 3] = noise_scale if word_to_uniform(w3) >= p else 0
    for last in range(c + (n - c) // 4 * 4, n):
        f[last] = noise_scale if uniform_at(seed, start + last) >= p else 0


@njit
def noise_row(mode, keep_scale, p, noise_scale, seed, m, f):
    """Write the keep scales of row m's elements to f [C]."""
    if mode == NONE:
        f[:] = 1
    elif mode == ROWS:
        f[:] = keep_scale[m]
    else:
        noise_span(p, noise_scale, seed, m * f.shape[0], f)


def numba_noise(noise: NoiseArguments) -> tuple[Any, ...]:
    """`NoiseArguments` as the first arguments (mode, keep_scale, p, noise_scale, seed) of `noise_row`."""
    p, noise_scale = np.float32(noise.p.item()), np.float32(noise.noise_scale.item())
    return noise.mode, noise.keep_scale, p, noise_scale, int(noise.seed.item())
