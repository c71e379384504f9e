"""One point for each occupied cell of a grid: how scenes of millions of points are thinned evenly.

NumPy alone, because the scripts that convert scenes use it and import nothing of ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Cells(NamedTuple):
    """The occupied cells, in the order of their coordinates: x slowest, z fastest."""

    index: NDArray[np.int64]  # type: ignore[assignment]
    """[S] the point kept for the cell: the nearest to the mean of its points, of equals the smaller index."""
    count: NDArray[np.int64]  # type: ignore[assignment]
    """[S] points in the cell."""
    cell: NDArray[np.int64]
    """[M] the cell of each point: `labels[cells.cell]` gives every point the label of its cell's point."""


def grid_subsample(pos: NDArray[np.floating], cell: float) -> Cells:
    """One point of each cell of a grid of cubes with sides of `cell`, which starts at the smallest coordinates.

    Args:
        pos: positions [M, 3].
        cell: side of the cubes in the units of pos, positive.

    Raises:
        ValueError: pos is not finite or not [M, 3], cell is not positive, or too small for the extent of the points.
    """
    pos = np.asarray(pos)
    if pos.ndim != 2 or pos.shape[1] != 3:
        raise ValueError(f"pos must be [M, 3]; got {list(pos.shape)}.")
    if not 0 < cell < np.inf:
        raise ValueError(f"cell must be a positive length; got {cell}.")
    if not len(pos):
        return Cells(*(np.zeros(0, np.int64) for _ in range(3)))
    if not np.isfinite(pos).all():
        raise ValueError(
            f"pos must be finite; {int((~np.isfinite(pos)).any(1).sum())} of {len(pos)} rows are not."
        )
    pos = pos.astype(np.float64)
    pos -= pos.min(0)
    sides = np.floor(pos.max(0) / cell) + 1
    if sides.prod() >= 2**62:
        raise ValueError(
            f"a cell of {cell} in an extent of {pos.max(0).max():g} makes more cells than can be counted; are both in the "
            "same unit?"
        )
    place = np.floor(pos / cell).astype(np.int64)
    _, y, z = sides.astype(np.int64)
    keys, of_point, count = np.unique(
        (place[:, 0] * y + place[:, 1]) * z + place[:, 2], return_inverse=True, return_counts=True
    )
    of_point = of_point.reshape(-1)
    means = np.stack([np.bincount(of_point, column, len(keys)) for column in pos.T], 1) / count[:, None]
    from_mean = np.square(pos - means[of_point]).sum(1)
    order = np.lexsort((from_mean, of_point))  # stable: of equals the smaller index comes first
    first = np.cumsum(count) - count
    return Cells(order[first].astype(np.int64), count.astype(np.int64), of_point.astype(np.int64))
