"""Points of a cloud in runs that lie close together, with bounding boxes in a binary tree over them (CPU).

The points of a cloud are put in the order of a space-filling curve (Morton's: the bits of the three coordinates interleaved)
and cut into leaves of LEAF points. Leaf l of a cloud with W leaves, W rounded up to a power of two, is node W + l of a heap:
node n stands for its children 2n and 2n + 1, node 1 for the whole cloud. What lies farther than a box lies farther
than all its points, also in floating point: `box_distance` rounds as the distance of a point does, in the same order,
and rounding is monotone. So a search that skips boxes by it finds exactly what a search of all points finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels._numba import njit

if TYPE_CHECKING:
    from numba import prange

LEAF = 32
NONE = 0x7FFFFFFF
DEPTH = 64  # of a search's stack: one entry a level is enough


class Boxes(NamedTuple):
    """All clouds' leaves below one another, and all clouds' trees."""

    points: Tensor
    """[L, 3, LEAF] coordinates; NaN, which nothing is near, where a cloud's last leaf has none."""
    index: Tensor
    """int32 [L, LEAF] the point's number within its cloud; NONE where there is none."""
    leaves: Tensor
    """int64 [B + 1] first leaf of each cloud."""
    nodes: Tensor
    """int64 [B + 1] first node of each cloud's tree (its node 0, which stands for nothing)."""
    boxes: Tensor
    """[nodes, 2, 3] smallest and largest coordinates; inf and -inf where a node is empty."""


def boxes_of(x: Tensor, ptr: Tensor) -> Boxes:
    """The boxes of rows x [M, 3] of the clouds ptr [B + 1]."""
    sizes = ptr[1:] - ptr[:-1]
    leaves = torch.nn.functional.pad(((sizes + LEAF - 1) // LEAF).cumsum(0), (1, 0))
    widths = [1 << max(0, n - 1).bit_length() for n in (leaves[1:] - leaves[:-1]).tolist()]
    nodes = torch.tensor([0, *(2 * w for w in widths)]).cumsum(0)
    points = x.new_full((int(leaves[-1]), 3, LEAF), torch.nan)
    found = Boxes(
        points,
        torch.full((points.shape[0], LEAF), NONE, dtype=torch.int32),
        leaves,
        nodes,
        x.new_empty((int(nodes[-1]), 2, 3)),
    )
    _build_cpu(x, ptr, *found)
    return found


@njit
def box_distance(box, x, y, z):
    """The squared distance from (x, y, z) to a box [2, 3], rounded as a point's is."""
    zero = box.dtype.type(0)
    a = max(box[0, 0] - x, x - box[1, 0], zero)
    b = max(box[0, 1] - y, y - box[1, 1], zero)
    c = max(box[0, 2] - z, z - box[1, 2], zero)
    return a * a + b * b + c * c


@njit
def leaf_distances(points, x, y, z, distances):
    """Squared distances from (x, y, z) to a leaf's points [3, LEAF]."""
    for j in range(LEAF):
        a, b, c = points[0, j] - x, points[1, j] - y, points[2, j] - z
        distances[j] = a * a + b * b + c * c


@njit
def nearest(points, index, tree, x, y, z, stack, distances, keys, best):
    """The k nearest points of one cloud by (distance, number), ascending, into keys and best [k]; NONE for what lacks.

    Stack [DEPTH] and distances [LEAF] are work space.
    """
    last, width = keys.shape[0] - 1, tree.shape[0] // 2
    keys[:], best[:] = np.inf, NONE
    stack[0] = 1
    height = 1
    while height > 0:
        height -= 1
        node = stack[height]
        if not box_distance(tree[node], x, y, z) <= keys[last]:
            continue
        if node < width:
            left = 2 * node
            nearer = box_distance(tree[left + 1], x, y, z) < box_distance(tree[left], x, y, z)
            stack[height], stack[height + 1] = left + (not nearer), left + nearer
            height += 2
            continue
        leaf = node - width
        leaf_distances(points[leaf], x, y, z, distances)
        for j in range(LEAF):
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
def _morton_order(x, start, stop):
    """Numbers within the cloud x[start:stop] in the order of the curve; equal codes in the order of the numbers."""
    n = stop - start
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(start, stop):
        for c in range(3):
            if np.isfinite(x[i, c]):
                low[c], high[c] = min(low[c], x[i, c]), max(high[c], x[i, c])
    side = max(high[0] - low[0], high[1] - low[1], high[2] - low[2])
    scale = 65535.0 / side if side > 0 else 0.0
    keys, order = np.empty(n, np.uint64), np.empty(n, np.int32)
    for i in range(n):
        key = np.uint64(0)
        for c in range(3):
            v = x[start + i, c]
            if np.isfinite(v):
                key |= _spread(np.uint64(min((v - low[c]) * scale, 65535.0))) << np.uint64(c)
        keys[i], order[i] = key, i
    keys_next, order_next = np.empty(n, np.uint64), np.empty(n, np.int32)
    place = np.empty(256, np.int64)
    for shift in range(0, 48, 8):  # radix sort, least digit first
        place[:] = 0
        for i in range(n):
            place[(keys[i] >> np.uint64(shift)) & np.uint64(255)] += 1
        if place.max() == n:
            continue
        total = 0
        for d in range(256):
            count = place[d]
            place[d] = total
            total += count
        for i in range(n):
            d = (keys[i] >> np.uint64(shift)) & np.uint64(255)
            to = place[d]
            place[d] = to + 1
            keys_next[to], order_next[to] = keys[i], order[i]
        keys, keys_next = keys_next, keys
        order, order_next = order_next, order
    return order


@njit(parallel=True)
def _build_cpu(x, ptr, points, index, leaves, nodes, boxes):
    for b in prange(ptr.shape[0] - 1):
        start, stop = ptr[b], ptr[b + 1]
        order = _morton_order(x, start, stop)
        tree = boxes[nodes[b] : nodes[b + 1]]
        width = tree.shape[0] // 2
        tree[:, 0], tree[:, 1] = np.inf, -np.inf
        for e in range(stop - start):
            leaf, place, i = e // LEAF, e % LEAF, order[e]
            index[leaves[b] + leaf, place] = i
            for c in range(3):
                v = x[start + i, c]
                points[leaves[b] + leaf, c, place] = v
                tree[width + leaf, 0, c] = min(tree[width + leaf, 0, c], v)
                tree[width + leaf, 1, c] = max(tree[width + leaf, 1, c], v)
        for node in range(width - 1, 0, -1):
            for c in range(3):
                tree[node, 0, c] = min(tree[2 * node, 0, c], tree[2 * node + 1, 0, c])
                tree[node, 1, c] = max(tree[2 * node, 1, c], tree[2 * node + 1, 1, c])
