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

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.numba import njit, shared
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import cdiv, jit, next_power_of_2
from dropfold.kernels.points.boxes import DEPTH, LEAF, NONE, box_distance, boxes_of
from dropfold.kernels.points.positions import positions

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

IN_REGISTERS = 8192  # points of a cloud that one program holds
BLOCK = 2048  # points of a larger cloud that one program holds

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
def _sample_cpu(x, ptr, start, points, index, leaves, nodes, child, boxes, out):
    for b in prange(out.shape[0]):
        of_points, of_index = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
        of_child, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
        least = np.full(of_index.shape, np.inf, x.dtype)
        for leaf in range(least.shape[0]):
            for j in range(LEAF):
                if of_index[leaf, j] == NONE:
                    least[leaf, j] = -1  # what fills a leaf is never the farthest
        # Of each node, the largest of its points' least distances, and the smallest number of a point that has it.
        top, arg = np.full(tree.shape[0], np.inf, x.dtype), np.full(tree.shape[0], NONE, np.int32)
        visited, stack = np.empty(tree.shape[0], np.int32), np.empty(DEPTH, np.int32)
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
                    # No point of a box that is at least as far as its points are from others comes nearer.
                    stack[height] = node
                    # (A box not seen yet is entered also where its distance overflows.)
                    height += box_distance(tree[node], px, py, pz) < top[node] or arg[node] == NONE
            for e in range(seen - 1, -1, -1):  # children before parents
                left = of_child[visited[e]]
                right = left + 1
                better = top[right] > top[left] or (top[right] == top[left] and arg[right] < arg[left])
                winner = right if better else left
                top[visited[e]], arg[visited[e]] = top[winner], arg[winner]
            i = arg[0] if arg[0] != NONE else start[b]


def _cpu_sample(x: Tensor, ptr: Tensor, start: Tensor, m: int, _: int) -> Tensor:
    out = torch.empty((start.shape[0], m), dtype=torch.int64)
    boxes = boxes_of(x, ptr)
    with shared(600 * out.numel() if len(out) > 1 else 0):
        _sample_cpu(x, ptr, start, *boxes, out)
    return out


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def _farthest(least, o):
    """Distance above, smaller number first below, in one key: non-negative floats are ordered as their bits are."""
    bits = least.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.max((bits << 32) | (0x7FFFFFFF - o.to(tl.int64)), axis=0)


@jit
def _distances(p_point, x, y, z):
    a, b, c = x - tl.load(p_point), y - tl.load(p_point + 1), z - tl.load(p_point + 2)
    return a * a + b * b + c * c


@jit
def _farthest_point_sample_fwd_kernel(p_x, p_ptr, p_start, p_out, m, BLOCK: tl.constexpr):
    """One cloud a program, all its points in registers."""
    i_b = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(p_ptr + i_b), tl.load(p_ptr + i_b + 1)
    o = tl.arange(0, BLOCK)
    there, p_own = o < stop - start, p_x + start * 3
    x = tl.load(p_own + o * 3, mask=there, other=0.0)
    y = tl.load(p_own + o * 3 + 1, mask=there, other=0.0)
    z = tl.load(p_own + o * 3 + 2, mask=there, other=0.0)
    least = tl.where(there, float("inf"), -1.0)
    i = tl.load(p_start + i_b)
    for t in range(m):
        tl.store(p_out + i_b * m + t, start + i)
        least = tl.minimum(least, _distances(p_own + i * 3, x, y, z))
        i = 0x7FFFFFFF - (_farthest(least, o) & 0x7FFFFFFF)


@jit
def _farthest_point_sample_step_kernel(
    p_x, p_ptr, p_least, p_keys, p_next, p_out, blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    """One point of each cloud: the farthest by the keys of the launch before, and from it the keys for the next."""
    i_b = tl.program_id(1).to(tl.int64)
    start, stop = tl.load(p_ptr + i_b), tl.load(p_ptr + i_b + 1)
    o_k = tl.arange(0, BLOCKS)
    keys = tl.load(p_keys + i_b * blocks + o_k, mask=o_k < blocks, other=-0x7FFFFFFFFFFFFFFF)
    i = 0x7FFFFFFF - (tl.max(keys, axis=0) & 0x7FFFFFFF)
    if tl.program_id(0) == 0:
        tl.store(p_out + i_b, start + i)
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there, p_own = o < stop - start, p_x + (start + o) * 3
    x = tl.load(p_own, mask=there, other=0.0)
    y = tl.load(p_own + 1, mask=there, other=0.0)
    z = tl.load(p_own + 2, mask=there, other=0.0)
    held = tl.load(p_least + start + o, mask=there, other=-1.0)
    least = tl.minimum(held, _distances(p_x + (start + i) * 3, x, y, z))
    tl.store(p_least + start + o, least, mask=there & (least < held))
    tl.store(p_next + i_b * blocks + tl.program_id(0), _farthest(least, o))


def _launch_sample(x: Tensor, ptr: Tensor, start: Tensor, m: int, most: int) -> Tensor:
    """Large clouds take m launches, since all their programs must be through before the next point is known."""
    clouds = start.shape[0]
    if most <= IN_REGISTERS:
        out = torch.empty((clouds, m), dtype=torch.int64, device=x.device)
        block = max(32, next_power_of_2(most))
        _farthest_point_sample_fwd_kernel[(clouds,)](
            *(x, ptr, start, out, m),
            BLOCK=block,
            num_warps=max(1, min(16, block // 128)),
            enable_fp_fusion=False,
        )
        return out
    blocks = cdiv(most, BLOCK)
    steps = torch.empty((m, clouds), dtype=torch.int64, device=x.device)
    least = torch.full((x.shape[0],), torch.inf, device=x.device)
    keys = torch.full((2, clouds, blocks), -NONE, dtype=torch.int64, device=x.device)
    keys[0, :, 0] = NONE - start
    for t in range(m):
        _farthest_point_sample_step_kernel[(blocks, clouds)](
            *(x, ptr, least, keys[t % 2], keys[1 - t % 2], steps[t], blocks),
            BLOCK=BLOCK,
            BLOCKS=next_power_of_2(blocks),
            num_warps=8,
            enable_fp_fusion=False,
        )
    return steps.T.contiguous()


# --- operator, public function -----------------------------------------------------------------------------------

_sample = operator(
    "farthest_point_sample(Tensor x, Tensor ptr, Tensor start, int m, int most) -> Tensor",
    cpu=_cpu_sample,
    triton=_launch_sample,
    fake=lambda x, ptr, start, m, most: start.new_empty((start.shape[0], m)),
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
    rows, ptr = positions("x", x, batch, batch_size)
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
    most = x.shape[1] if x.dim() == 3 else x.shape[0]
    if batch is not None and clouds and not torch.compiler.is_compiling():
        most = int((ptr[1:] - ptr[:-1]).max())
    idx = _sample(rows, ptr, start.contiguous(), m, most)
    return idx - ptr[:-1, None] if x.dim() == 3 else idx.flatten()
