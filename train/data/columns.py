"""Columns of a room: the points above a square of the floor, found without looking at the others.

The points are sorted into square cells once; a column is then a few runs of the sorted points, cut exactly.
"""

from __future__ import annotations

import numpy as np

CELLS = 1 << 22  # at most so many, whatever lies far away
UP = 2  # the upright axis


class Columns:
    """Points xy [n, 2] sorted into cells of `cell` metres or more: `order` [n] are their places, cell row by cell row.

    Raises:
        ValueError: no points.
    """

    def __init__(self, xy: np.ndarray, cell: float) -> None:
        if not len(xy):
            raise ValueError("a room has no points; expected 1 or more.")
        self.low, self.high = xy.min(0).astype(np.float64), xy.max(0).astype(np.float64)
        extent = self.high - self.low
        while np.prod(np.floor(extent / cell) + 1) > CELLS:
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
        found = np.floor((np.asarray(x, np.float64) - self.low[axis]) / self.cell).astype(np.int64)
        return np.clip(found, 0, (self.rows, self.columns)[axis] - 1)

    def run(self, low: float, high: float) -> tuple[int, int]:
        """Where in `order` the cell rows that hold x from `low` to `high` begin and end."""
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
            held = (xy[:, 0] >= low[0]) & (xy[:, 0] <= high[0]) & (xy[:, 1] >= low[1]) & (xy[:, 1] <= high[1])
            runs.append(begin + np.flatnonzero(held))
        return np.concatenate(runs)


def channels(
    points: np.ndarray,
    colour: np.ndarray | None,
    centre: np.ndarray,
    highest: np.ndarray,
    shape: np.ndarray | None = None,
) -> np.ndarray:
    """What a network sees of points [..., 3] (metres from the room's minimum): x and y from the block's `centre`, z; colours
    [..., 3] / 255, where there are some; the place in the room, xyz / its maximum; and `shape` [..., S], where it is given.
    float32 [..., 9 or 6, and S]."""
    place = 3 if colour is None else 6
    more = 0 if shape is None else shape.shape[-1]
    seen = np.empty((*points.shape[:-1], place + 3 + more), np.float32)
    seen[..., :2] = (
        points[..., :2] - centre
    )  # float64 where the centre is: points lie far from the room's minimum
    seen[..., 2] = points[..., 2]
    if colour is not None:
        seen[..., 3:6] = colour
        seen[..., 3:6] /= 255
    seen[..., place : place + 3] = points / np.where(highest > 0, highest, 1).astype(np.float32)
    if shape is not None:
        seen[..., place + 3 :] = shape
    return seen
