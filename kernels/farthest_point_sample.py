r"""Farthest point sampling: m points of each cloud, each the farthest from those before it.

    s_0 = start,   s_t = the point i with the largest min over r < t of |x_i - x_{s_r}|^2

Of equally far points the smaller index is taken. Distances are sums of squared differences in float32 (float64 for
float64 points), in the order of the coordinates and without fused multiply-adds, so every device takes the same points.
There is no gradient: the choice is discrete.

Source: Eldar et al. 1997; PointNet++ (Qi et al. 2017, section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kernels._boxes import DEPTH, LEAF, NONE, box_distance, boxes_of
from kernels._clouds import check_finite, coordinates, describe
from kernels._numba import njit
from kernels._operator import operator

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

# --- CPU ---------------------------------------------------------------------------------------------------------


@njit
def _update_leaf(points, least, index, x, y, z):
    """Lower `least` [LEAF] by the distances to (x, y, z); returns the largest and the smallest number that has it."""
    top = least.dtype.type(-1)
    for j in range(LEAF):
        a, b, c = points[0, j] - x, points[1, j] - y, points[2, j] - z
        d, held = a * a + b * b + c * c, least[j]
        held = d if d < held else held
        least[j] = held
        top = held if held > top else top
    arg = np.int32(NONE)
    for j in range(LEAF):
        i = index[j] if least[j] == top else np.int32(NONE)
        arg = i if i < arg else arg
    return top, arg


@njit(parallel=True)
def _sample_cpu(x, ptr, start, points, index, leaves, nodes, boxes, out):
    for b in prange(out.shape[0]):
        of_points, of_index = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
        tree, n = boxes[nodes[b] : nodes[b + 1]], ptr[b + 1] - ptr[b]
        width = tree.shape[0] // 2
        least = np.full((of_points.shape[0], LEAF), np.inf, x.dtype)
        least.ravel()[n:] = -1  # what fills the last leaf is never the farthest
        # Of each node, the largest of its points' least distances and the smallest number that has it.
        top, arg = np.full(2 * width, -1, x.dtype), np.full(2 * width, NONE, np.int32)
        top[1], visited, stack = np.inf, np.empty(2 * width, np.int32), np.empty(DEPTH, np.int32)
        top[width : width + of_points.shape[0]] = np.inf
        for node in range(width - 1, 0, -1):
            top[node] = max(top[2 * node], top[2 * node + 1])
        i = start[b]
        for t in range(out.shape[1]):
            out[b, t] = ptr[b] + i
            px, py, pz = x[ptr[b] + i, 0], x[ptr[b] + i, 1], x[ptr[b] + i, 2]
            stack[0] = 1
            height, seen = 1, 0
            while height > 0:
                height -= 1
                node = stack[height]
                if node >= width:
                    leaf = node - width
                    top[node], arg[node] = _update_leaf(
                        of_points[leaf], least[leaf], of_index[leaf], px, py, pz
                    )
                else:
                    visited[seen] = node
                    seen += 1
                    for child in range(2 * node, 2 * node + 2):
                        # No point of a box that is at least as far as its points are from others comes nearer.
                        if box_distance(tree[child], px, py, pz) < top[child]:
                            stack[height] = child
                            height += 1
            for e in range(seen - 1, -1, -1):  # children before parents
                left = 2 * visited[e]
                right = left + 1
                better = top[right] > top[left] or (top[right] == top[left] and arg[right] < arg[left])
                winner = right if better else left
                top[visited[e]], arg[visited[e]] = top[winner], arg[winner]
            i = arg[1]


def _cpu_sample(x: Tensor, ptr: Tensor, start: Tensor, m: int) -> Tensor:
    out = torch.empty((start.shape[0], m), dtype=torch.int64)
    _sample_cpu(x, ptr, start, *boxes_of(x, ptr), out)
    return out


_sample = operator(
    "farthest_point_sample(Tensor x, Tensor ptr, Tensor start, int m) -> Tensor",
    cpu=_cpu_sample,
    triton=_cpu_sample,
    fake=lambda x, ptr, start, m: start.new_empty((start.shape[0], m)),
)


@torch.no_grad()
def farthest_point_sample(
    x: Tensor,
    m: int,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """m points of each cloud, far from one another; see the head of this file.

    Args:
        x: positions, dense [B, N, 3], or rows [M, 3] with `batch` [M] (None: one cloud).
        m: at least 1 and at most the points of the smallest cloud.
        start: int64 [B], the first point of each cloud, counted within it; 0 if it is not given.

    Returns:
        int64 [B, m] counted within the cloud for dense x, [B * m] row numbers for rows.

    Raises:
        ValueError: shapes do not fit, m is too large for a cloud or below 1, start is outside its cloud, or (on the CPU)
            a position is not finite.
    """
    rows, ptr = coordinates("x", x, batch, batch_size)
    clouds = ptr.shape[0] - 1
    if m < 1 or (x.dim() == 3 and m > x.shape[1]) or (x.dim() == 2 and batch is None and m > x.shape[0]):
        raise ValueError(
            f"m must be at least 1 and at most the points of a cloud; got m = {m} for x {describe(x)}."
        )
    if start is None:
        start = torch.zeros(clouds, dtype=torch.int64, device=x.device)
    if start.shape != (clouds,) or start.dtype != torch.int64:
        raise ValueError(
            f"start must be int64 [{clouds}], the first point of each cloud; got {describe(start)}."
        )
    # On a GPU the checks wait for the sizes, unless batch_size says that the caller knows them.
    if (x.is_cpu or (batch is not None and batch_size is None)) and not torch.compiler.is_compiling():
        sizes = ptr[1:] - ptr[:-1]
        if clouds and int(sizes.min()) < m:
            raise ValueError(
                f"m must be at most the points of the smallest cloud; got m = {m} and a cloud of {int(sizes.min())} points."
            )
        if bool(((start < 0) | (start >= sizes)).any()):
            raise ValueError(
                f"start counts within each cloud, from 0 to its points - 1; got {int(start.min())} to "
                f"{int(start.max())} for clouds of {int(sizes.min())} to {int(sizes.max())} points."
            )
    check_finite("x", rows)
    idx = _sample(rows, ptr, start, m)
    return idx - ptr[:-1, None] if x.dim() == 3 else idx.flatten()
