"""Covariance, mean and extent of neighbourhoods: the numba loop of `local_shape`."""

from __future__ import annotations

import numpy as np

from dropfold.kernels.backend.numba import njit


@njit
def compute_moments(points, idx, up):  # type: ignore[no-untyped-def]
    """Of the points idx [n, k] around each: covariance [n, 3, 3], mean [n, 3], and their extent along `up` [n]."""
    n, k = idx.shape
    covariance, mean, height = np.zeros((n, 3, 3)), np.zeros((n, 3)), np.empty(n)
    for i in range(n):
        low, high = np.inf, -np.inf
        for j in idx[i]:
            for a in range(3):
                mean[i, a] += points[j, a] / k
            low, high = min(low, points[j, up]), max(high, points[j, up])
        height[i] = high - low
        for j in idx[i]:
            for a in range(3):
                for b in range(3):
                    covariance[i, a, b] += (points[j, a] - mean[i, a]) * (points[j, b] - mean[i, b]) / k
    return covariance, mean, height
