"""How the points around a point lie, at the full density of a cloud, which a network that sees few of its points loses.

The neighbourhood of a point at a scale are the K nearest points (itself among them) of the cloud thinned to one point in
each cube of a grid; the finest scale takes the cloud as it is. Of the covariance of their positions, with eigenvalues
l1 >= l2 >= l3 and the eigenvector e3 of the smallest, with their mean m and the upright direction u:

    linearity (l1 - l2) / l1    planarity (l2 - l3) / l1    sphericity l3 / l1    size 10 sqrt(l1)    uprightness |e3 . u|
    height 5 (max - min of p . u)    beside |(m - p) x u| / sqrt(l1)    above (m - p) . u / sqrt(l1)

The finest scale's channels do not change when the cloud is turned about u; the coarser ones do, a little: their grid does
not turn.

Sources: Weinmann et al. 2015, "Semantic point cloud interpretation based on optimal neighborhoods, relevant features and
efficient classifiers" (the ratios); Hackel et al. 2016, "Fast semantic segmentation of 3D point clouds with strongly varying
density" (scales by thinning, so that all cost the same).
"""

from __future__ import annotations

import numpy as np
import torch

from dropfold import kernels
from dropfold.train.data.grid import grid_subsample

K = 16
CELLS = (0.0, 0.05, 0.15)  # sides of the cubes, in the units of the cloud; 0: not thinned
CHANNELS_PER_SCALE = 8
CHANNELS = CHANNELS_PER_SCALE * len(CELLS)
SMALLEST_EIGENVALUE = 1e-6  # a millimetre squared; K copies of one point have no extent
FARTHEST = 10.0  # largest offset of a point from its neighbours' mean, in units of sqrt(l1)
PIECE = 1 << 16  # points whose covariances are held at a time


def local_shape(points: np.ndarray, up: int) -> np.ndarray:
    """float16 [n, CHANNELS] of points [n, 3], in metres or within the unit sphere; `up` is the upright axis.

    Raises:
        ValueError: the points lie too far apart for the grid.
    """
    channels = np.empty((len(points), CHANNELS), np.float16)
    for scale, cell in enumerate(CELLS):
        thinned, cell_of_point = points, np.arange(len(points))
        if cell:
            cells = grid_subsample(points, cell)
            thinned, cell_of_point = points[cells.index], cells.cell
        cloud = torch.from_numpy(np.ascontiguousarray(thinned, np.float32))
        idx = kernels.knn(cloud[None], min(K, len(cloud)))[0].numpy()
        shape = np.empty((len(thinned), 6), np.float16)
        mean, size = np.empty((len(thinned), 3)), np.empty(len(thinned))
        for start in range(0, len(thinned), PIECE):
            piece = slice(start, start + PIECE)
            shape[piece], mean[piece], size[piece] = _describe(thinned, idx[piece], up)
        own = channels[:, scale * CHANNELS_PER_SCALE : (scale + 1) * CHANNELS_PER_SCALE]
        for start in range(0, len(points), PIECE):
            piece = slice(start, start + PIECE)
            cell_idx = cell_of_point[piece]
            own[piece, :6] = shape[cell_idx]
            offset = np.clip((mean[cell_idx] - points[piece]) / size[cell_idx, None], -FARTHEST, FARTHEST)
            own[piece, 6] = np.hypot(*np.delete(offset, up, 1).T)
            own[piece, 7] = offset[:, up]
    return channels


def _describe(points: np.ndarray, idx: np.ndarray, up: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the neighbourhoods idx [n, k]: the first six channels [n, 6], the mean [n, 3] and sqrt(l1) [n]."""
    from dropfold.kernels.backend.numba import launch
    from dropfold.train.data.moments import compute_moments

    covariance, mean, height = launch(compute_moments, points, idx, up)
    values, vectors = np.linalg.eigh(covariance)
    small, middle, large = np.clip(values, SMALLEST_EIGENVALUE, None).T
    size, upright = np.sqrt(large), np.abs(vectors[:, up, 0])
    ratios = (large - middle) / large, (middle - small) / large, small / large
    return np.stack([*ratios, 10 * size, upright, 5 * height], 1), mean, size
