"""How the points around a point lie, at the full density of a cloud: what is lost where a network sees few of its points.

The neighbourhood of a point at a scale are the K nearest points (itself among them) of the cloud thinned to one point in
each cube of a grid; the finest scale takes the cloud as it is. Of the covariance of their positions, with eigenvalues
l1 >= l2 >= l3 and the eigenvector e3 of the smallest, with their mean m and the upright direction u:

    linearity (l1 - l2) / l1    planarity (l2 - l3) / l1    sphericity l3 / l1    size 10 sqrt(l1)    uprightness |e3 . u|
    height 5 (max - min of p . u)    beside |(m - p) x u| / sqrt(l1)    above (m - p) . u / sqrt(l1)

None of the finest scale's changes when the cloud is turned about u; the grid of the coarser ones does not turn.

Sources: Weinmann et al. 2015, "Semantic point cloud interpretation based on optimal neighborhoods, relevant features and
efficient classifiers" (the ratios); Hackel et al. 2016, "Fast semantic segmentation of 3D point clouds with strongly varying
density" (scales by thinning, so that all cost the same).
"""

from __future__ import annotations

import numpy as np
import torch

from dropfold import kernels
from dropfold.train.data.grid import grid_subsample
from dropfold.kernels.backend.numba import launch, njit

K = 16
CELLS = (0.0, 0.05, 0.15)  # sides of the cubes, in the units of the cloud; 0: not thinned
EACH = 8
CHANNELS = EACH * len(CELLS)
SMALLEST = 1e-6  # of an eigenvalue: a millimetre; K copies of one point have no extent
FARTHEST = 10.0  # of what is measured in sqrt(l1)
PIECE = 1 << 16  # points whose covariances are held at a time


def local_shape(points: np.ndarray, up: int) -> np.ndarray:
    """float16 [n, CHANNELS] of points [n, 3], in metres or within the unit sphere; `up` is the upright axis.

    Raises:
        ValueError: the points lie too far apart for the grid.
    """
    found = np.empty((len(points), CHANNELS), np.float16)
    for scale, cell in enumerate(CELLS):
        seen, of = points, np.arange(len(points))
        if cell:
            cells = grid_subsample(points, cell)
            seen, of = points[cells.index], cells.cell
        cloud = torch.from_numpy(np.ascontiguousarray(seen, np.float32))
        idx = kernels.knn(cloud[None], min(K, len(cloud)))[0].numpy()
        lies = np.empty((len(seen), 6), np.float16)
        mean, size = np.empty((len(seen), 3)), np.empty(len(seen))
        for start in range(0, len(seen), PIECE):
            piece = slice(start, start + PIECE)
            lies[piece], mean[piece], size[piece] = _lies(seen, idx[piece], up)
        some = found[:, scale * EACH : (scale + 1) * EACH]
        for start in range(0, len(points), PIECE):
            piece = slice(start, start + PIECE)
            cube = of[piece]
            some[piece, :6] = lies[cube]
            away = np.clip((mean[cube] - points[piece]) / size[cube, None], -FARTHEST, FARTHEST)
            some[piece, 6] = np.hypot(*np.delete(away, up, 1).T)
            some[piece, 7] = away[:, up]
    return found


def _lies(seen: np.ndarray, idx: np.ndarray, up: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the neighbourhoods idx [n, k]: the first six channels [n, 6], the mean [n, 3] and sqrt(l1) [n]."""
    covariance, mean, height = launch(_moments, seen, idx, up)
    values, vectors = np.linalg.eigh(covariance)
    small, middle, large = np.clip(values, SMALLEST, None).T
    size, upright = np.sqrt(large), np.abs(vectors[:, up, 0])
    ratios = (large - middle) / large, (middle - small) / large, small / large
    return np.stack([*ratios, 10 * size, upright, 5 * height], 1), mean, size


@njit
def _moments(points, idx, up):  # type: ignore[no-untyped-def]
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
