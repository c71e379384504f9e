"""knn on the CPU: distances of a query to its whole cloud, or, in large clouds in 3-D, a search of boxes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.gemm import mm
from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.points.boxes import NO_POINT, POINTS_PER_LEAF, STACK_NODES, boxes_of, nearest, reach
from dropfold.kernels.points.clouds import ptr_to_batch
from dropfold.kernels.points.knn.operation import MAX_SUMMED_CHANNELS

GROUPS = 128  # into which a query's distances are dealt; their minima bound the search
MIN_POINTS_FOR_BOXES = 4097  # smaller clouds in 3-D are not searched in boxes
QUERIES_PER_CHUNK = 32  # which a thread takes at a time
PRODUCTS_PER_TILE = 2**19  # 2 MiB of float32, which stay in the cache


@njit
def _bound(distances, k, minima):
    """A distance such that at least k distances are at or below it, and few more.

    Distance j belongs to group j mod GROUPS. If k groups have their minimum at or below the bound, so have k distances.
    The minima are written to `minima` [GROUPS].
    """
    minima[:] = np.inf
    whole = distances.shape[0] // GROUPS * GROUPS
    for first in range(0, whole, GROUPS):
        for g in range(GROUPS):
            d, least = distances[first + g], minima[g]
            minima[g] = d if d < least else least
    for g in range(distances.shape[0] - whole):
        d, least = distances[whole + g], minima[g]
        minima[g] = d if d < least else least
    low, high = minima.dtype.type(0), minima.dtype.type(np.inf)
    if k <= GROUPS:
        high = minima.max()
        for _ in range(12):
            middle = (low + high) / 2
            count = 0
            for g in range(GROUPS):
                count += minima[g] <= middle
            low, high = (low, middle) if count >= k else (middle, high)
            if k <= count <= k + k // 8:
                break
    return high


@njit
def _select(distances, k, minima, candidates, keys, best, own, offset, out):
    """Write the k smallest of `distances` by (distance, index), ascending, to out.

    NaN is never near; if fewer than k are left, `own` fills the list. Minima [GROUPS], candidates [n + 1], keys and
    best [k] are work space.
    """
    bound = _bound(distances, k, minima)
    count = 0
    for g in range(GROUPS):
        if minima[g] <= bound:
            for j in range(g, distances.shape[0], GROUPS):
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


@njit(parallel=True)
def _search_coordinates(x, ptr, batch, k, largest, out):
    """Neighbours of rows x [M, C] by sums of squared differences; `largest` is the points of the largest cloud."""
    rows, channels = x.shape
    columns = x.T.copy()
    for b in prange((rows + QUERIES_PER_CHUNK - 1) // QUERIES_PER_CHUNK):
        minima, keys, best = np.empty(GROUPS, x.dtype), np.empty(k, x.dtype), np.empty(k, np.int64)
        space, candidates = np.empty(largest, x.dtype), np.empty(largest + 1, np.int64)
        for i in range(b * QUERIES_PER_CHUNK, min(rows, (b + 1) * QUERIES_PER_CHUNK)):
            start, stop = ptr[batch[i]], ptr[batch[i] + 1]
            distances = space[: stop - start]
            distances[:] = 0
            for c in range(channels):
                column, own = columns[c, start:stop], x[i, c]
                for j in range(stop - start):
                    d = column[j] - own
                    distances[j] += d * d
            _select(distances, k, minima, candidates, keys, best, i - start, start, out[i])


@njit(parallel=True)
def _search_products(products, squares, first, start, k, out):
    """Neighbours of the queries first, first + 1, ... from products[q, j] = x_q . x_j of one cloud; overwrites products."""
    queries = products.shape[0]
    zero, two = squares.dtype.type(0), squares.dtype.type(2)  # Python numbers would make it float64
    for b in prange((queries + QUERIES_PER_CHUNK - 1) // QUERIES_PER_CHUNK):
        minima, keys = np.empty(GROUPS, squares.dtype), np.empty(k, squares.dtype)
        best, candidates = np.empty(k, np.int64), np.empty(squares.shape[0] + 1, np.int64)
        for q in range(b * QUERIES_PER_CHUNK, min(queries, (b + 1) * QUERIES_PER_CHUNK)):
            i, distances = first - start + q, products[q]
            own = squares[i]
            for j in range(squares.shape[0]):
                d = squares[j] + own - two * distances[j]
                distances[j] = zero if d < zero else d
            distances[i] = zero
            _select(distances, k, minima, candidates, keys, best, i, start, out[first + q])


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
    offsets = ptr.tolist()
    if x.shape[1] <= MAX_SUMMED_CHANNELS:
        largest = max((stop - start for start, stop in pairwise(offsets)), default=0)
        if x.shape[1] == 3 and largest >= MIN_POINTS_FOR_BOXES:
            launch(_search_boxes, x.contiguous(), ptr, *boxes_of(x.contiguous(), ptr), out)
        else:
            launch(_search_coordinates, x.contiguous(), ptr, ptr_to_batch(ptr, x.shape[0]), k, largest, out)
        return out
    for start, stop in pairwise(offsets):
        cloud = x[start:stop] - x[start:stop].mean(0)
        squares = cloud.square().sum(1)
        queries_per_tile = max(4 * QUERIES_PER_CHUNK, PRODUCTS_PER_TILE // max(1, stop - start))
        for first in range(start, stop, queries_per_tile):
            queries = cloud[first - start : first - start + queries_per_tile]
            launch(_search_products, mm(queries, cloud.T), squares, first, start, k, out)
    return out
