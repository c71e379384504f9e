"""The moments of a tensor's columns on the CPU."""

from __future__ import annotations

import numpy as np
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.norm.batch_norm.operation import ROWS_PER_BLOCK, empty_moments


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    means, m2s = empty_moments(y)
    launch(_moments, y.to(means.dtype), means, m2s, ROWS_PER_BLOCK)
    return means, m2s


@njit(parallel=True)
def _moments(y, means, m2s, block):
    rows, channels = y.shape
    for b in prange(means.shape[0]):
        start, stop = b * block, min(rows, (b + 1) * block)
        mean = np.zeros(channels, y.dtype)
        m2 = np.zeros(channels, y.dtype)
        for m in range(start, stop):
            for c in range(channels):
                mean[c] += y[m, c]
        for c in range(channels):
            mean[c] /= stop - start
        for m in range(start, stop):
            for c in range(channels):
                d = y[m, c] - mean[c]
                m2[c] += d * d
        means[b] = mean
        m2s[b] = m2
