"""ball_query on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit, shared
from dropfold.kernels.points.ball_query.outputs import _limit
from dropfold.kernels.points.boxes import DEPTH, LEAF, NONE, box_distance, boxes_of, leaf_distances, nearest

CHUNK = 32  # centres that a core takes at a time


BLOCK = 128  # points that a scan sees between looks at what it has


SEARCH = 24  # times a search takes for a point that the ball holds as a scan takes for one that it sees


@njit
def _scan(cloud, x, y, z, limit, k, found):
    """The first k points within the limit, in index order, into found; returns how many, and how many points were seen."""
    n = cloud.shape[0]
    count = first = 0
    while first < n and count < k:
        stop = min(n, first + BLOCK)
        for j in range(first, stop):
            a, b, c = cloud[j, 0] - x, cloud[j, 1] - y, cloud[j, 2] - z
            found[count] = j
            count += a * a + b * b + c * c <= limit
        first = stop
    return count, first


@njit
def _search(points, index, child, boxes, x, y, z, limit, stack, distances, found):
    """All points within the limit, in index order, into found; returns how many."""
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
        for j in range(LEAF):
            found[count] = index[leaf, j]
            count += distances[j] <= limit
    if count > 48:
        found[:count].sort()
        return count
    for e in range(1, count):
        held, place = found[e], e
        while place > 0 and found[place - 1] > held:
            found[place] = found[place - 1]
            place -= 1
        found[place] = held
    return count


@njit(parallel=True)
def _query_cpu(
    rows, ptr, centres, centres_ptr, limit, k, points, index, leaves, nodes, child, boxes, most, lists, size
):
    groups = centres.shape[0]
    for block in prange((groups + CHUNK - 1) // CHUNK):
        found, distances = np.empty(most + LEAF + 1, np.int32), np.empty(LEAF, rows.dtype)
        stack, far = np.empty(DEPTH, np.int32), np.empty(DEPTH, rows.dtype)
        key, one = np.empty(1, rows.dtype), np.empty(1, np.int32)
        b = 0  # the cloud
        held = 1.0  # points in a ball of this chunk, as the last one was
        for g in range(block * CHUNK, min(groups, (block + 1) * CHUNK)):
            while centres_ptr[b + 1] <= g:
                b += 1
            x, y, z = centres[g, 0], centres[g, 1], centres[g, 2]
            start, stop = ptr[b], ptr[b + 1]
            own, numbers = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
            to, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
            # A scan sees points until it has k; a search orders all that the ball holds.
            if (stop - start) * min(1.0, k / held) < SEARCH * held:
                count, seen = _scan(rows[start:stop], x, y, z, limit, k, found)
                held = max(1.0, count * (stop - start) / max(1, seen))
            else:
                count = _search(own, numbers, to, tree, x, y, z, limit, stack, distances, found)
                held = max(1.0, count)
            if count == 0:
                nearest(own, numbers, to, tree, x, y, z, np.inf, stack, far, distances, key, one)
                found[0] = one[0] if one[0] != NONE else 0
                count = 1
            size[g] = min(count, k)
            for e in range(size[g]):
                lists[g, e] = found[e]


@njit(parallel=True)
def _compact_cpu(lists, size, ptr, centres_ptr, offsets, k, idx, count):
    for block in prange((size.shape[0] + CHUNK - 1) // CHUNK):
        b = 0
        for g in range(block * CHUNK, min(size.shape[0], (block + 1) * CHUNK)):
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
    most = int((ptr[1:] - ptr[:-1]).max()) if ptr.shape[0] > 1 else 0
    limit = torch.tensor(_limit(radius, x.dtype), dtype=x.dtype).numpy()[()]
    lists = torch.empty((groups, max(1, min(k, most))), dtype=torch.int32)
    size = torch.empty(groups, dtype=torch.int64)
    boxes = boxes_of(x, ptr)
    with shared(500 * groups):
        launch(_query_cpu, x, ptr, centres, centres_ptr, limit, k, *boxes, most, lists, size)
    offsets = torch.nn.functional.pad(size.cumsum(0), (1, 0))
    idx = torch.empty(int(offsets[-1]), dtype=torch.int64)
    count = torch.empty_like(idx)
    with shared(2 * idx.numel()):
        launch(_compact_cpu, lists, size, ptr, centres_ptr, offsets, k, idx, count)
    return offsets, idx, count
