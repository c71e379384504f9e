"""Columns of a room: the points above a square of the floor, without a search of all points.

The points are sorted into square cells once; a column is then a few runs of the sorted points, cut exactly.
"""

from __future__ import annotations

import numpy as np

from dropfold.train.config.channels import Channels

MOST_CELLS = 1 << 22  # a point far away makes the cells larger, and not more of them
UP = 2  # index of the upright axis


class Columns:
    """Points xy [n, 2] sorted into cells of `cell` metres or more: `order` [n] are their indices, cell row by cell row.

    Raises:
        ValueError: no points.
    """

    def __init__(self, xy: np.ndarray, cell: float) -> None:
        if not len(xy):
            raise ValueError("a room has no points; expected 1 or more.")
        self.low, self.high = xy.min(0).astype(np.float64), xy.max(0).astype(np.float64)
        extent = self.high - self.low
        while np.prod(np.floor(extent / cell) + 1) > MOST_CELLS:
            cell *= 2
        self.cell = cell
        self.rows, self.columns = (int(size) for size in np.floor(extent / cell) + 1)
        i, j = self._cells(xy[:, 0], 0), self._cells(xy[:, 1], 1)
        key = i * self.columns + j
        # Numpy sorts numbers of 16 bits by counting.
        small = key.astype(np.uint16) if self.rows * self.columns <= 1 << 16 else key
        self.order = np.argsort(small, kind="stable")
        self.xy = xy[self.order].astype(np.float64)
        counts = np.bincount(key, minlength=self.rows * self.columns)
        self.start = np.concatenate([[0], np.cumsum(counts)])

    def _cells(self, x: np.ndarray | float, axis: int) -> np.ndarray:
        cells = np.floor((np.asarray(x, np.float64) - self.low[axis]) / self.cell).astype(np.int64)
        return np.clip(cells, 0, (self.rows, self.columns)[axis] - 1)

    def run(self, low: float, high: float) -> tuple[int, int]:
        """The range of `order` that covers the cell rows with x from `low` to `high`."""
        first, last = self._cells(low, 0), self._cells(high, 0)
        return int(self.start[first * self.columns]), int(self.start[(last + 1) * self.columns])

    def inside(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Positions in `order` of the points with low <= xy <= high (bounds included)."""
        first, last = self._cells(low[0], 0), self._cells(high[0], 0)
        left, right = int(self._cells(low[1], 1)), int(self._cells(high[1], 1))
        runs = []
        for row in range(int(first), int(last) + 1):
            begin, end = (int(self.start[row * self.columns + j]) for j in (left, right + 1))
            xy = self.xy[begin:end]
            inside = (
                (xy[:, 0] >= low[0]) & (xy[:, 0] <= high[0]) & (xy[:, 1] >= low[1]) & (xy[:, 1] <= high[1])
            )
            runs.append(begin + np.flatnonzero(inside))
        return np.concatenate(runs)


def channels(
    points: np.ndarray,
    colour: np.ndarray | None,
    centre: np.ndarray,
    highest: np.ndarray,
    shape: np.ndarray | None = None,
) -> np.ndarray:
    """The input channels of points [..., 3] (metres from the room's minimum), in the order of `config.channels.Channels`: x
    and y from the block's `centre`, and z; colours [..., 3] / 255, if given; the place in the room, xyz / its maximum; and
    `shape` [..., S], if given. float32 [..., 9 or 6, and S]."""
    kinds = Channels(
        colour=0 if colour is None else 3, place=3, shape=0 if shape is None else shape.shape[-1]
    )
    slices = kinds.slices
    x = np.empty((*points.shape[:-1], kinds.total), np.float32)
    # The centre is float64, and so is the difference: points lie far from the room's minimum.
    x[..., :2] = points[..., :2] - centre
    x[..., 2] = points[..., 2]
    if colour is not None:
        x[..., slices["colour"]] = colour
        x[..., slices["colour"]] /= 255
    x[..., slices["place"]] = points / np.where(highest > 0, highest, 1).astype(np.float32)
    if shape is not None:
        x[..., slices["shape"]] = shape
    return x
