"""knn on the CPU: distances of a query to its whole cloud, or, in large clouds in 3-D, a search of boxes.

`near_marked` needs no lists: a marked point is among the k nearest of a query iff its nearest marked point is, and that is
iff fewer than k points are nearer. So it counts, where knn selects and sorts.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.backend.panels import multiply_panels, pack
from dropfold.kernels.backend.vector import multiply_routine
from dropfold.kernels.points.boxes import NO_POINT, POINTS_PER_LEAF, STACK_NODES, boxes_of, nearest, reach
from dropfold.kernels.points.clouds import ptr_to_batch
from dropfold.kernels.points.knn.operation import MAX_SUMMED_CHANNELS

GROUPS = 128  # into which a query's distances are dealt; their minima bound the search
MIN_POINTS_FOR_BOXES = 4097  # smaller clouds in 3-D are not searched in boxes
QUERIES_PER_CHUNK = 32  # which a thread takes at a time
QUERIES_PER_BLOCK, MIN_QUERIES = 48, 12  # whose products with the whole cloud a thread makes at a time
PRODUCTS_PER_BLOCK = 1 << 16  # so that they stay in its own cache


@njit
def _bound(distances, k, minima):
    """A distance such that at least k distances are at or below it, and few more.

    Distance j belongs to group j mod GROUPS. If k groups have their minimum at or below the bound, so have k distances.
    The minima are written to `minima` [2, GROUPS], and the row in which they end is returned, too.
    """
    now, whole = 0, distances.shape[0] // GROUPS * GROUPS
    minima[0] = np.inf
    for first in range(0, whole, GROUPS):
        # Of two rows: one that is read and written would be stored by a mask, which some processors do slowly.
        old, new = minima[now], minima[1 - now]
        for g in range(GROUPS):
            d, least = distances[first + g], old[g]
            new[g] = d if d < least else least
        now = 1 - now
    for g in range(distances.shape[0] - whole):
        if distances[whole + g] < minima[now, g]:
            minima[now, g] = distances[whole + g]
    least = minima[now]
    low, high, half = minima.dtype.type(0), minima.dtype.type(np.inf), minima.dtype.type(0.5)
    if k <= GROUPS:
        high = least.max()
        for _ in range(12):
            middle, count = half * (low + high), 0
            for g in range(GROUPS):
                count += least[g] <= middle
            low, high = (low, middle) if count >= k else (middle, high)
            if k <= count <= k + k // 8:
                break
    return high, now


@njit
def _select(distances, k, minima, candidates, near_groups, keys, best, own, offset, out):
    """Write the k smallest of `distances` by (distance, index), ascending, to out.

    NaN is never near; if fewer than k are left, `own` fills the list. Minima [2, GROUPS], candidates [n + 1],
    near_groups [GROUPS + 1], keys and best [k] are work space.
    """
    bound, row = _bound(distances, k, minima)
    groups, count = 0, 0
    for g in range(GROUPS):  # written whether near or not: a processor cannot foresee which are
        near_groups[groups] = g
        groups += minima[row, g] <= bound
    for n in range(groups):
        for j in range(near_groups[n], distances.shape[0], GROUPS):
            candidates[count] = j
            count += distances[j] <= bound
    filled = 0
    best[:] = own
    for e in range(count):
        j = candidates[e]
        d = distances[j]
        place = filled
        if filled == k:
            place = k - 1
            if keys[place] < d or (keys[place] == d and best[place] < j):
                continue
        while place > 0 and (keys[place - 1] > d or (keys[place - 1] == d and best[place - 1] > j)):
            keys[place] = keys[place - 1]
            best[place] = best[place - 1]
            place -= 1
        keys[place] = d
        best[place] = j
        filled = min(k, filled + 1)
    for place in range(k):
        out[place] = best[place] + offset


@njit(inline=True)
def _sum_differences(columns, start, stop, point, distances):
    """Write the squared distances of a point [C] to the points start .. stop - 1 of columns [C, M]."""
    distances[:] = 0
    for c in range(columns.shape[0]):
        column, own = columns[c, start:stop], point[c]
        for j in range(stop - start):
            d = column[j] - own
            distances[j] += d * d


@njit(parallel=True)
def _search_coordinates(x, ptr, batch, k, largest, out):
    """Neighbours of rows x [M, C] by sums of squared differences; `largest` is the points of the largest cloud."""
    rows = x.shape[0]
    columns = x.T.copy()
    for b in prange((rows + QUERIES_PER_CHUNK - 1) // QUERIES_PER_CHUNK):
        minima, keys, best = np.empty((2, GROUPS), x.dtype), np.empty(k, x.dtype), np.empty(k, np.int64)
        space, candidates = np.empty(largest, x.dtype), np.empty(largest + 1, np.int32)
        near_groups = np.empty(GROUPS + 1, np.int32)
        for i in range(b * QUERIES_PER_CHUNK, min(rows, (b + 1) * QUERIES_PER_CHUNK)):
            start, stop = ptr[batch[i]], ptr[batch[i] + 1]
            distances = space[: stop - start]
            _sum_differences(columns, start, stop, x[i], distances)
            _select(distances, k, minima, candidates, near_groups, keys, best, i - start, start, out[i])


@njit
def _is_near_marked(distances, k, marked, start):
    """Whether one of the points `marked` [n] (row numbers; the cloud begins at `start`) is among the k nearest."""
    nearest_marked, least = -1, distances.dtype.type(np.inf)
    for row in marked:
        d = distances[row - start]
        if d < least or (d == least and nearest_marked < 0):
            nearest_marked, least = row - start, d
    if nearest_marked < 0:
        return False
    # Of equal distances the smaller index is nearer. Slices make the loops' first index a constant: they are vectorised.
    before, after = distances[:nearest_marked], distances[nearest_marked + 1 :]
    nearer = 0
    for j in range(before.shape[0]):
        nearer += before[j] <= least
    for j in range(after.shape[0]):
        nearer += after[j] < least
    return nearer < k


@njit(parallel=True)
def _mark_coordinates(x, ptr, batch, k, largest, marked, marked_ptr, out):
    """`near_marked` of rows x [M, C]; cloud b's marked rows are marked[marked_ptr[b] : marked_ptr[b + 1]]."""
    rows = x.shape[0]
    columns = x.T.copy()
    for chunk in prange((rows + QUERIES_PER_CHUNK - 1) // QUERIES_PER_CHUNK):
        space = np.empty(largest, x.dtype)
        for i in range(chunk * QUERIES_PER_CHUNK, min(rows, (chunk + 1) * QUERIES_PER_CHUNK)):
            b = batch[i]
            start, stop = ptr[b], ptr[b + 1]
            distances = space[: stop - start]
            _sum_differences(columns, start, stop, x[i], distances)
            out[i] = _is_near_marked(distances, k, marked[marked_ptr[b] : marked_ptr[b + 1]], start)


@njit(parallel=True)
def _search_products(routine, cloud, squares, rows_per_block, start, k, out):
    """Neighbours of the points of one cloud [N, C], whose first is row `start`, by products with all of them."""
    panels = pack(cloud)
    # Rows a power of two apart would share few places of the cache.
    points, row = cloud.shape[0], (panels.shape[0] + 1) * panels.shape[2]
    zero, two = squares.dtype.type(0), squares.dtype.type(2)  # Python numbers would make it float64
    for block in prange((points + rows_per_block - 1) // rows_per_block):
        minima, keys = np.empty((2, GROUPS), squares.dtype), np.empty(k, squares.dtype)
        best = np.empty(k, np.int64)
        near_groups, candidates = np.empty(GROUPS + 1, np.int32), np.empty(points + 1, np.int32)
        first = block * rows_per_block
        n = min(points, first + rows_per_block) - first
        y = np.empty(n * row, squares.dtype)
        multiply_panels(routine, cloud, first, n, panels, 0, panels.shape[0], y, row)
        for m in range(n):
            i = first + m
            distances, own = y[m * row : m * row + points], squares[i]
            for j in range(points):
                d = squares[j] + own - two * distances[j]
                distances[j] = zero if d < zero else d
            distances[i] = zero
            _select(distances, k, minima, candidates, near_groups, keys, best, i, start, out[start + i])


@njit(parallel=True)
def _search_boxes(x, ptr, points, index, leaves, nodes, child, boxes, out):
    """Neighbours of rows x [M, 3] by a search of their clouds' boxes, a leaf of queries at a time."""
    k = out.shape[1]
    for block in prange(index.shape[0]):
        b = 0  # the cloud
        while leaves[b + 1] <= block:
            b += 1
        own, numbers = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
        to, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
        cloud, start = x[ptr[b] : ptr[b + 1]], ptr[b]
        stack, far = np.empty(STACK_NODES, np.int32), np.empty(STACK_NODES, x.dtype)
        distances, keys = np.empty(POINTS_PER_LEAF, x.dtype), np.empty(k, x.dtype)
        best = np.full(k, NO_POINT, np.int32)
        for e in range(POINTS_PER_LEAF):
            i = index[block, e]
            if i == NO_POINT:
                break
            px, py, pz = cloud[i, 0], cloud[i, 1], cloud[i, 2]
            # The point before lies close by: its neighbours bound the distance of this point's.
            bound = reach(cloud, best, px, py, pz)
            nearest(own, numbers, to, tree, px, py, pz, bound, stack, far, distances, keys, best)
            for n in range(k):
                out[start + i, n] = start + (best[n] if best[n] != NO_POINT else i)


def knn(x: Tensor, ptr: Tensor, k: int) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    out = torch.empty((x.shape[0], k), dtype=torch.int64)
    if x.shape[1] <= MAX_SUMMED_CHANNELS:
        if _takes_boxes(x, ptr):
            launch(_search_boxes, x.contiguous(), ptr, *boxes_of(x.contiguous(), ptr), out)
        else:
            batch = ptr_to_batch(ptr, x.shape[0])
            launch(_search_coordinates, x.contiguous(), ptr, batch, k, _most_points(ptr), out)
        return out
    for start, stop in pairwise(ptr.tolist()):
        cloud = x[start:stop] - x[start:stop].mean(0)
        squares = cloud.square().sum(1)
        if stop > start:
            rows_per_block = min(QUERIES_PER_BLOCK, max(MIN_QUERIES, PRODUCTS_PER_BLOCK // (stop - start)))
            arguments = cloud, squares, rows_per_block, start, k, out
            launch(_search_products, multiply_routine(x.dtype), *arguments)
    return out


def near_marked(x: Tensor, ptr: Tensor, k: int, marked: Tensor) -> Tensor:
    """Whether a marked point (marked: bool [M]) is among the k nearest of each row of x [M, C]: bool [M].

    Equal to `marked[knn(x, ptr, k)].any(1)`. Cost: N^2 C multiply-adds and N^2 comparisons a cloud, and nothing of size N k,
    but for features and large clouds, which are searched as knn does it.
    """
    if x.shape[1] > MAX_SUMMED_CHANNELS or _takes_boxes(x, ptr):
        return marked[knn(x, ptr, k)].any(1)
    x = x if x.dtype == torch.float64 else x.float()
    out, rows = torch.empty(x.shape[0], dtype=torch.bool), marked.nonzero()[:, 0]
    batch, marked_ptr = ptr_to_batch(ptr, x.shape[0]), torch.searchsorted(rows, ptr)
    launch(_mark_coordinates, x.contiguous(), ptr, batch, k, _most_points(ptr), rows, marked_ptr, out)
    return out


def _most_points(ptr: Tensor) -> int:
    """The points of the largest cloud."""
    return max((stop - start for start, stop in pairwise(ptr.tolist())), default=0)


def _takes_boxes(x: Tensor, ptr: Tensor) -> bool:
    """Whether a search of boxes is the faster one: in 3-D, where a cloud is large."""
    return x.shape[1] == 3 and _most_points(ptr) >= MIN_POINTS_FOR_BOXES
