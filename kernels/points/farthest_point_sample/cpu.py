"""farthest_point_sample on the CPU: only boxes near the new point are updated."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit, threads_for
from dropfold.kernels.points.boxes import NO_POINT, POINTS_PER_LEAF, STACK_NODES, box_distance, boxes_of


@njit
def _update_leaf(points, least, index, x, y, z):
    """Lower `least` [POINTS_PER_LEAF] to the distances to (x, y, z); returns the largest and the first point that has it."""
    top = least.dtype.type(-1)
    for j in range(POINTS_PER_LEAF):
        a, b, c = points[0, j] - x, points[1, j] - y, points[2, j] - z
        d, lowest = a * a + b * b + c * c, least[j]
        lowest = d if d < lowest else lowest
        least[j] = lowest
        top = lowest if lowest > top else top
    arg = np.int32(NO_POINT)
    for j in range(POINTS_PER_LEAF):
        i = index[j] if least[j] == top else np.int32(NO_POINT)
        arg = i if i < arg else arg
    return top, arg


@njit(parallel=True)
def _sample(x, ptr, start, points, index, leaves, nodes, child, boxes, out):
    for b in prange(out.shape[0]):
        of_points, of_index = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
        of_child, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
        least = np.full(of_index.shape, np.inf, x.dtype)
        for leaf in range(least.shape[0]):
            for j in range(POINTS_PER_LEAF):
                if of_index[leaf, j] == NO_POINT:
                    least[leaf, j] = -1  # a free place is never the farthest
        # For each node the largest of its points' least distances, and the smallest number of a point that has it.
        top, arg = np.full(tree.shape[0], np.inf, x.dtype), np.full(tree.shape[0], NO_POINT, np.int32)
        visited, stack = np.empty(tree.shape[0], np.int32), np.empty(STACK_NODES, np.int32)
        i = start[b]
        for t in range(out.shape[1]):
            out[b, t] = ptr[b] + i
            px, py, pz = x[ptr[b] + i, 0], x[ptr[b] + i, 1], x[ptr[b] + i, 2]
            stack[0] = 0
            height, seen = 1, 0
            while height > 0:
                height -= 1
                node = stack[height]
                to = of_child[node]
                if to <= 0:
                    top[node], arg[node] = _update_leaf(of_points[-to], least[-to], of_index[-to], px, py, pz)
                    continue
                visited[seen] = node
                seen += 1
                for node in range(to, to + 2):
                    # A box at least as far away as the least distances of its points changes none of them.
                    stack[height] = node
                    # (A box that was never visited is entered even if its distance overflows.)
                    height += box_distance(tree[node], px, py, pz) < top[node] or arg[node] == NO_POINT
            for e in range(seen - 1, -1, -1):  # children before parents
                left = of_child[visited[e]]
                right = left + 1
                better = top[right] > top[left] or (top[right] == top[left] and arg[right] < arg[left])
                winner = right if better else left
                top[visited[e]], arg[visited[e]] = top[winner], arg[winner]
            i = arg[0] if arg[0] != NO_POINT else start[b]


def farthest_point_sample(x: Tensor, ptr: Tensor, start: Tensor, m: int, _: int) -> Tensor:
    out = torch.empty((start.shape[0], m), dtype=torch.int64)
    boxes = boxes_of(x, ptr)
    with threads_for(600 * out.numel() if len(out) > 1 else 0):
        launch(_sample, x, ptr, start, *boxes, out)
    return out
