"""Bounding boxes over the points of clouds, for searches on the CPU: leaves of close points under a binary tree of boxes.

The points of a cloud are sorted along a space-filling curve (Morton's: the bits of the three coordinates interleaved).
The curve is cut in two at its highest bit that is not the same for all points, and each half again, until a leaf has at
most POINTS_PER_LEAF points. No point of a box is nearer than the box, also in floating point: `box_distance` rounds as
the distance of a point does, in the same order, and rounding is monotone. So a search that skips far boxes finds exactly
what a search of all points finds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit, threads_for

POINTS_PER_LEAF = 32  # a few vector registers of the processor
NO_POINT = 0x7FFFFFFF  # larger than every point's number
STACK_NODES = 96  # of a search: 48 bits of the code, then halves of points with equal codes


class Boxes(NamedTuple):
    """The leaves of all clouds below one another, and their trees. Leaves, nodes and points count from 0 in each cloud."""

    points: Tensor
    """[L, 3, POINTS_PER_LEAF] coordinates; NaN, which is near nothing, in the free places of a leaf."""
    index: Tensor  # type: ignore[assignment]
    """int32 [L, POINTS_PER_LEAF] the point's number within its cloud; NO_POINT in a free place."""
    leaves: Tensor
    """int64 [B + 1] first leaf of each cloud."""
    nodes: Tensor
    """int64 [B + 1] first node of each cloud: its root."""
    child: Tensor
    """int32 [T] the first of a node's two children, which follow one another, or minus the number of its leaf."""
    boxes: Tensor
    """[T, 2, 3] smallest and largest coordinates."""


def boxes_of(x: Tensor, ptr: Tensor) -> Boxes:
    """Build the boxes of rows x [M, 3] of the clouds ptr [B + 1]."""
    clouds = ptr.shape[0] - 1
    order, starts = (torch.empty(x.shape[0] + clouds, dtype=torch.int32) for _ in range(2))
    children = torch.empty(2 * (x.shape[0] + clouds), dtype=torch.int32)
    leaf_counts = torch.empty(clouds, dtype=torch.int64)
    nanoseconds = 0 if clouds == 1 else 12 * x.shape[0]
    with threads_for(nanoseconds):
        launch(_build_trees, x, ptr, order, starts, children, leaf_counts)
    leaves, nodes = torch.zeros((2, clouds + 1), dtype=torch.int64)
    torch.cumsum(leaf_counts, 0, out=leaves[1:])
    torch.cumsum(2 * leaf_counts - 1, 0, out=nodes[1:])
    points, tree = x.new_empty((int(leaves[-1]), 3, POINTS_PER_LEAF)), x.new_empty((int(nodes[-1]), 2, 3))
    index = torch.empty((points.shape[0], POINTS_PER_LEAF), dtype=torch.int32)
    child = torch.empty(tree.shape[0], dtype=torch.int32)
    boxes = Boxes(points, index, leaves, nodes, child, tree)
    with threads_for(nanoseconds):
        launch(_fill_boxes, x, ptr, order, starts, children, *boxes)
    return boxes


@njit
def box_distance(box, x, y, z):
    """The squared distance from (x, y, z) to a box [2, 3], rounded as the distance to a point is."""
    zero = box.dtype.type(0)
    a = max(box[0, 0] - x, x - box[1, 0], zero)
    b = max(box[0, 1] - y, y - box[1, 1], zero)
    c = max(box[0, 2] - z, z - box[1, 2], zero)
    return a * a + b * b + c * c


@njit
def leaf_distances(points, x, y, z, distances):
    """Write the squared distances from (x, y, z) to a leaf's points [3, POINTS_PER_LEAF]."""
    for j in range(POINTS_PER_LEAF):
        a, b, c = points[0, j] - x, points[1, j] - y, points[2, j] - z
        distances[j] = a * a + b * b + c * c


@njit
def reach(cloud, best, x, y, z):
    """The largest squared distance from (x, y, z) to the points `best` of a cloud [n, 3]; infinite if one is missing."""
    farthest = cloud.dtype.type(0)
    for e in range(best.shape[0]):
        if best[e] == NO_POINT:
            return cloud.dtype.type(np.inf)
        near = cloud[best[e]]
        a, b, c = near[0] - x, near[1] - y, near[2] - z
        farthest = max(farthest, a * a + b * b + c * c)
    return farthest


@njit
def nearest(points, index, child, boxes, x, y, z, bound, stack, far, distances, keys, best):
    """Write the k nearest points of one cloud by (distance, number), ascending, to keys and best [k].

    A cloud of fewer points leaves NO_POINT at the end. At least k points lie within the squared distance `bound`, or it
    is infinite. Stack and far [STACK_NODES] and distances [POINTS_PER_LEAF] are work space.
    """
    last = keys.shape[0] - 1
    keys[:], best[:] = bound, NO_POINT
    stack[0], far[0] = 0, 0
    height = 1
    while height > 0:
        height -= 1
        if not far[height] <= keys[last]:
            continue
        node = stack[height]
        while child[node] > 0:  # down to the nearer leaf; the other children wait on the stack
            node = child[node]
            a, b = box_distance(boxes[node], x, y, z), box_distance(boxes[node + 1], x, y, z)
            swapped = b < a
            stack[height], far[height] = node + (not swapped), a if swapped else b
            height += (a if swapped else b) <= keys[last]
            node += swapped
        leaf = -child[node]
        leaf_distances(points[leaf], x, y, z, distances)
        for j in range(POINTS_PER_LEAF):
            d, i = distances[j], index[leaf, j]
            if d < keys[last] or (d == keys[last] and i < best[last]):
                place = last
                while place > 0 and (keys[place - 1] > d or (keys[place - 1] == d and best[place - 1] > i)):
                    keys[place], best[place] = keys[place - 1], best[place - 1]
                    place -= 1
                keys[place], best[place] = d, i


@njit
def _spread(v):
    """The 16 lowest bits of v, each followed by two zeros."""
    v = (v | (v << np.uint64(16))) & np.uint64(0x0000FF0000FF)
    v = (v | (v << np.uint64(8))) & np.uint64(0x00F00F00F00F)
    v = (v | (v << np.uint64(4))) & np.uint64(0x0C30C30C30C3)
    return (v | (v << np.uint64(2))) & np.uint64(0x249249249249)


@njit
def _sort_codes(x):
    """Morton's codes of x [n, 3], ascending, and the points' numbers in that order; of equal codes the smaller number."""
    n = x.shape[0]
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(n):
        for c in range(3):
            if np.isfinite(x[i, c]):
                low[c], high[c] = min(low[c], x[i, c]), max(high[c], x[i, c])
    side = max(high[0] - low[0], high[1] - low[1], high[2] - low[2])
    scale = 65535.0 / side if side > 0 else 0.0
    codes, order = np.empty(n, np.uint64), np.empty(n, np.int32)
    for i in range(n):
        code = np.uint64(0)
        for c in range(3):
            v = x[i, c]
            if np.isfinite(v):
                code |= _spread(np.uint64(min((v - low[c]) * scale, 65535.0))) << np.uint64(c)
        codes[i], order[i] = code, i
    next_codes, next_order = np.empty(n, np.uint64), np.empty(n, np.int32)
    place = np.empty(256, np.int64)
    for shift in range(0, 48, 8):  # radix sort, the least digit first
        place[:] = 0
        for i in range(n):
            place[(codes[i] >> np.uint64(shift)) & np.uint64(255)] += 1
        if place.max() == n:
            continue
        total = 0
        for d in range(256):
            count = place[d]
            place[d] = total
            total += count
        for i in range(n):
            d = (codes[i] >> np.uint64(shift)) & np.uint64(255)
            to = place[d]
            place[d] = to + 1
            next_codes[to], next_order[to] = codes[i], order[i]
        codes, next_codes = next_codes, codes
        order, next_order = next_order, order
    return codes, order


@njit(parallel=True)
def _build_trees(x, ptr, order, starts, children, leaf_counts):
    """Each cloud's order, its leaves' first places in that order, its nodes' children, and its number of leaves."""
    for b in prange(leaf_counts.shape[0]):
        n = ptr[b + 1] - ptr[b]
        codes, own_order = _sort_codes(x[ptr[b] : ptr[b + 1]])
        order[ptr[b] : ptr[b + 1]] = own_order
        # An empty cloud has one leaf without points.
        first, child = starts[ptr[b] + b : ptr[b + 1] + b + 1], children[2 * (ptr[b] + b) :]
        stack = np.empty((STACK_NODES, 4), np.int64)
        stack[0] = 0, 0, n, 47
        height, leaves, nodes = 1, 0, 1
        while height > 0:
            height -= 1
            node, start, stop, bit = stack[height]
            if stop - start <= POINTS_PER_LEAF:
                first[leaves], child[node] = start, -leaves
                leaves += 1
                continue
            while bit >= 0 and ((codes[start] ^ codes[stop - 1]) >> np.uint64(bit)) & np.uint64(1) == 0:
                bit -= 1
            low, middle = start, stop
            while bit >= 0 and low < middle:  # the first code that has the bit
                at = (low + middle) // 2
                if (codes[at] >> np.uint64(bit)) & np.uint64(1):
                    middle = at
                else:
                    low = at + 1
            if bit < 0:
                middle = (start + stop) // 2
            child[node] = nodes
            stack[height] = nodes + 1, middle, stop, bit - 1
            stack[height + 1] = nodes, start, middle, bit - 1
            height += 2
            nodes += 2
        leaf_counts[b] = leaves


@njit(parallel=True)
def _fill_boxes(x, ptr, order, starts, children, points, index, leaves, nodes, child, boxes):
    """Write the fields of `Boxes` from what `_build_trees` made."""
    points[:], index[:] = np.nan, NO_POINT
    for b in prange(ptr.shape[0] - 1):
        own, numbers = x[ptr[b] : ptr[b + 1]], order[ptr[b] : ptr[b + 1]]
        tree = boxes[nodes[b] : nodes[b + 1]]
        first, of_node = starts[ptr[b] + b :], children[2 * (ptr[b] + b) :]
        leaf_count = leaves[b + 1] - leaves[b]
        tree[:, 0], tree[:, 1] = np.inf, -np.inf
        for node in range(tree.shape[0] - 1, -1, -1):  # children before parents
            to = of_node[node]
            child[nodes[b] + node] = to
            if to > 0:
                for c in range(3):
                    tree[node, 0, c] = min(tree[to, 0, c], tree[to + 1, 0, c])
                    tree[node, 1, c] = max(tree[to, 1, c], tree[to + 1, 1, c])
                continue
            leaf = -to
            stop = first[leaf + 1] if leaf + 1 < leaf_count else own.shape[0]
            for place in range(stop - first[leaf]):
                i = numbers[first[leaf] + place]
                index[leaves[b] + leaf, place] = i
                for c in range(3):
                    v = own[i, c]
                    points[leaves[b] + leaf, c, place] = v
                    if v < tree[node, 0, c]:
                        tree[node, 0, c] = v
                    if v > tree[node, 1, c]:
                        tree[node, 1, c] = v
