"""knn on the CPU."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.gemm import mm
from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.points.boxes import DEPTH, LEAF, NONE, boxes_of, nearest, reach
from dropfold.kernels.points.clouds import ptr_to_batch
from dropfold.kernels.points.knn.outputs import DIRECT

GROUPS = 128  # whose minima bound the search on the CPU


SEARCH = 4096  # points of a cloud in 3-D above which boxes of points are searched on the CPU


CHUNK = 32  # queries that a core takes at a time


@njit
def bound_of(distances, k, minima):
    """A distance that at least k are at or below, and few more. Distance j is of group j mod GROUPS; where k groups have
    their minimum at or below the bound, so have k distances. `minima` [GROUPS] is left for who searches the groups."""
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
def select(distances, k, minima, found, keys, best, own, offset, out):
    """The k smallest of `distances` by (distance, index), ascending, into out; `own` for what lacks (NaN is never near).
    Minima [GROUPS], found [n + 1], keys and best [k] are work space."""
    bound = bound_of(distances, k, minima)
    count = 0
    for g in range(GROUPS):
        if minima[g] <= bound:
            for j in range(g, distances.shape[0], GROUPS):
                found[count] = j
                count += distances[j] <= bound
    filled = 0
    best[:] = own
    for e in range(count):
        j = found[e]
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
def _knn_direct_cpu(x, ptr, batch, k, most, out):
    rows, channels = x.shape
    columns = x.T.copy()
    for b in prange((rows + CHUNK - 1) // CHUNK):
        minima, keys, best = np.empty(GROUPS, x.dtype), np.empty(k, x.dtype), np.empty(k, np.int64)
        space, found = np.empty(most, x.dtype), np.empty(most + 1, np.int64)
        for i in range(b * CHUNK, min(rows, (b + 1) * CHUNK)):
            start, stop = ptr[batch[i]], ptr[batch[i] + 1]
            distances = space[: stop - start]
            distances[:] = 0
            for c in range(channels):
                column, own = columns[c, start:stop], x[i, c]
                for j in range(stop - start):
                    d = column[j] - own
                    distances[j] += d * d
            select(distances, k, minima, found, keys, best, i - start, start, out[i])


@njit(parallel=True)
def _select_cpu(products, squares, first, start, k, out):
    """Neighbours of the queries first, first + 1, ... from products[q, j] = x_q . x_j of one cloud; overwrites products."""
    queries = products.shape[0]
    zero, two = squares.dtype.type(0), squares.dtype.type(2)  # integers would make it float64
    for b in prange((queries + CHUNK - 1) // CHUNK):
        minima, keys, best = (
            np.empty(GROUPS, squares.dtype),
            np.empty(k, squares.dtype),
            np.empty(k, np.int64),
        )
        found = np.empty(squares.shape[0] + 1, np.int64)
        for q in range(b * CHUNK, min(queries, (b + 1) * CHUNK)):
            i, distances = first - start + q, products[q]
            own = squares[i]
            for j in range(squares.shape[0]):
                d = squares[j] + own - two * distances[j]
                distances[j] = zero if d < zero else d
            distances[i] = zero
            select(distances, k, minima, found, keys, best, i, start, out[first + q])


@njit(parallel=True)
def _knn_boxes_cpu(x, ptr, points, index, leaves, nodes, child, boxes, out):
    k = out.shape[1]
    for block in prange(index.shape[0]):
        b = 0  # the cloud
        while leaves[b + 1] <= block:
            b += 1
        own, numbers = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
        to, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
        cloud, start = x[ptr[b] : ptr[b + 1]], ptr[b]
        stack, far, distances = np.empty(DEPTH, np.int32), np.empty(DEPTH, x.dtype), np.empty(LEAF, x.dtype)
        keys, best = np.empty(k, x.dtype), np.full(k, NONE, np.int32)
        for e in range(LEAF):
            i = index[block, e]
            if i == NONE:
                break
            px, py, pz = cloud[i, 0], cloud[i, 1], cloud[i, 2]
            bound = reach(
                cloud, best, px, py, pz
            )  # of the neighbours of the point before, which lies close by
            nearest(own, numbers, to, tree, px, py, pz, bound, stack, far, distances, keys, best)
            for n in range(k):
                out[start + i, n] = start + (best[n] if best[n] != NONE else i)


def knn(x: Tensor, ptr: Tensor, k: int) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    out = torch.empty((x.shape[0], k), dtype=torch.int64)
    offsets = ptr.tolist()
    if x.shape[1] <= DIRECT:
        most = max((stop - start for start, stop in pairwise(offsets)), default=0)
        if x.shape[1] == 3 and most > SEARCH:
            launch(_knn_boxes_cpu, x.contiguous(), ptr, *boxes_of(x.contiguous(), ptr), out)
            return out
        launch(_knn_direct_cpu, x.contiguous(), ptr, ptr_to_batch(ptr, x.shape[0]), k, most, out)
        return out
    for start, stop in pairwise(offsets):
        cloud = x[start:stop] - x[start:stop].mean(0)
        squares = cloud.square().sum(1)
        tile = max(4 * CHUNK, 2**19 // max(1, stop - start))  # products of 2 MiB stay in the cache
        for first in range(start, stop, tile):
            queries = cloud[first - start : first - start + tile]
            launch(_select_cpu, mm(queries, cloud.T), squares, first, start, k, out)
    return out
