"""ball_query on the CPU: a scan in index order that stops at k points, or a search of boxes that orders what it finds."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit, threads_for
from dropfold.kernels.points.ball_query.operation import squared_radius
from dropfold.kernels.points.boxes import (
    NO_POINT,
    POINTS_PER_LEAF,
    STACK_NODES,
    box_distance,
    boxes_of,
    leaf_distances,
    nearest,
)

CENTRES_PER_CHUNK = 32  # which a thread takes at a time
POINTS_PER_LOOK = 128  # a scan checks after so many points whether it has k
SEARCH_TIME = 24  # of a search per point inside the ball, in times of a scan per point seen
MAX_INSERTION_SORT = 48  # longer lists are sorted by NumPy


@njit
def _scan(cloud, x, y, z, limit, k, inside):
    """Write the first k points within the limit, in index order, to `inside`; returns how many, and how many were seen.

    Each point seen is written to the next place, which the next one overwrites if it is outside.
    """
    n = cloud.shape[0]
    count = first = 0
    while first < n and count < k:
        stop = min(n, first + POINTS_PER_LOOK)
        for j in range(first, stop):
            a, b, c = cloud[j, 0] - x, cloud[j, 1] - y, cloud[j, 2] - z
            inside[count] = j
            count += a * a + b * b + c * c <= limit
        first = stop
    return count, first


@njit
def _search(points, index, child, boxes, x, y, z, limit, stack, distances, inside):
    """Write all points within the limit, in index order, to `inside`; returns how many."""
    count = stack[0] = 0
    height = 1
    while height > 0:
        height -= 1
        node = stack[height]
        to = child[node]
        if to > 0:
            for node in range(to, to + 2):
                stack[height] = node
                height += box_distance(boxes[node], x, y, z) <= limit
            continue
        leaf = -to
        leaf_distances(points[leaf], x, y, z, distances)
        for j in range(POINTS_PER_LEAF):
            inside[count] = index[leaf, j]
            count += distances[j] <= limit
    if count > MAX_INSERTION_SORT:
        inside[:count].sort()
        return count
    for e in range(1, count):
        i, place = inside[e], e
        while place > 0 and inside[place - 1] > i:
            inside[place] = inside[place - 1]
            place -= 1
        inside[place] = i
    return count


@njit(parallel=True)
def _make_lists(
    rows, ptr, centres, centres_ptr, limit, k, points, index, leaves, nodes, child, boxes, largest, lists,
    size,
):  # fmt: skip
    """Each ball's points, numbered within their cloud, to lists [G, k] and size [G]; `largest`: points of a cloud."""
    groups = centres.shape[0]
    for block in prange((groups + CENTRES_PER_CHUNK - 1) // CENTRES_PER_CHUNK):
        inside = np.empty(largest + POINTS_PER_LEAF + 1, np.int32)
        distances = np.empty(POINTS_PER_LEAF, rows.dtype)
        stack, far = np.empty(STACK_NODES, np.int32), np.empty(STACK_NODES, rows.dtype)
        key, one = np.empty(1, rows.dtype), np.empty(1, np.int32)
        b = 0  # the cloud
        expected = 1.0  # points in the next ball: as many as in the last one
        for g in range(block * CENTRES_PER_CHUNK, min(groups, (block + 1) * CENTRES_PER_CHUNK)):
            while centres_ptr[b + 1] <= g:
                b += 1
            x, y, z = centres[g, 0], centres[g, 1], centres[g, 2]
            start, stop = ptr[b], ptr[b + 1]
            own, numbers = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
            to, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
            # A scan sees points until it has k; a search sorts all points of the ball.
            if (stop - start) * min(1.0, k / expected) < SEARCH_TIME * expected:
                count, seen = _scan(rows[start:stop], x, y, z, limit, k, inside)
                expected = max(1.0, count * (stop - start) / max(1, seen))
            else:
                count = _search(own, numbers, to, tree, x, y, z, limit, stack, distances, inside)
                expected = max(1.0, count)
            if count == 0:
                nearest(own, numbers, to, tree, x, y, z, np.inf, stack, far, distances, key, one)
                inside[0] = one[0] if one[0] != NO_POINT else 0
                count = 1
            size[g] = min(count, k)
            for e in range(size[g]):
                lists[g, e] = inside[e]


@njit(parallel=True)
def _join_lists(lists, size, ptr, centres_ptr, offsets, k, idx, count):
    """The lists one after another, as row numbers, to idx [E], and their counts."""
    for block in prange((size.shape[0] + CENTRES_PER_CHUNK - 1) // CENTRES_PER_CHUNK):
        b = 0
        for g in range(block * CENTRES_PER_CHUNK, min(size.shape[0], (block + 1) * CENTRES_PER_CHUNK)):
            while centres_ptr[b + 1] <= g:
                b += 1
            first = offsets[g]
            for e in range(size[g]):
                idx[first + e] = ptr[b] + lists[g, e]
                count[first + e] = 1
            count[first] = k - size[g] + 1


def ball_query(
    x: Tensor, ptr: Tensor, centres: Tensor, centres_ptr: Tensor, radius: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    groups = centres.shape[0]
    largest = int((ptr[1:] - ptr[:-1]).max()) if ptr.shape[0] > 1 else 0
    limit = torch.tensor(squared_radius(radius, x.dtype), dtype=x.dtype).numpy()[()]
    lists = torch.empty((groups, max(1, min(k, largest))), dtype=torch.int32)
    size = torch.empty(groups, dtype=torch.int64)
    boxes = boxes_of(x, ptr)
    with threads_for(500 * groups):
        launch(_make_lists, x, ptr, centres, centres_ptr, limit, k, *boxes, largest, lists, size)
    offsets = torch.nn.functional.pad(size.cumsum(0), (1, 0))
    idx = torch.empty(int(offsets[-1]), dtype=torch.int64)
    count = torch.empty_like(idx)
    with threads_for(2 * idx.numel()):
        launch(_join_lists, lists, size, ptr, centres_ptr, offsets, k, idx, count)
    return offsets, idx, count
