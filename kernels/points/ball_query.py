r"""Points within a radius of centres, as groups in CSR form.

    group g = the first k rows j, in index order, of g's cloud with |x_j - c_g|^2 <= radius^2

A point is out where its squared distance, a sum of squared differences in float32 (float64 for float64 points), is
larger than radius^2 rounded to the same type. The padded form that is usual elsewhere, [G, k], repeats the first entry
in a group of n < k points; here that entry's `count` is k - n + 1, all others' is 1, and `Groups.padded(k)` gives the
padded form. A ball that holds no point takes the nearest one (of equally near ones the smaller index), with count k.
There is no gradient: the choice is discrete.

Source: PointNet++ (Qi et al. 2017, section 3.2); the padding is that of its public implementations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dropfold.kernels.backend.numba import njit, shared
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import cdiv, jit
from dropfold.kernels.points.boxes import DEPTH, LEAF, NONE, box_distance, boxes_of, leaf_distances, nearest
from dropfold.kernels.points.clouds import ptr_to_batch
from dropfold.kernels.points.groups import Groups
from dropfold.kernels.points.positions import positions_of_both

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

CHUNK = 32  # centres that a core takes at a time
BLOCK = 128  # points that a scan sees between looks at what it has
SEARCH = 24  # times a search takes for a point that the ball holds as a scan takes for one that it sees

# --- CPU ---------------------------------------------------------------------------------------------------------


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


def _limit(radius: float, dtype: torch.dtype) -> float:
    """The largest squared distance, rounded as squared distances are."""
    return float(torch.tensor(radius * radius, dtype=dtype))


def _cpu_query(
    x: Tensor, ptr: Tensor, centres: Tensor, centres_ptr: Tensor, radius: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    groups = centres.shape[0]
    most = int((ptr[1:] - ptr[:-1]).max()) if ptr.shape[0] > 1 else 0
    limit = torch.tensor(_limit(radius, x.dtype), dtype=x.dtype).numpy()[()]
    lists = torch.empty((groups, max(1, min(k, most))), dtype=torch.int32)
    size = torch.empty(groups, dtype=torch.int64)
    boxes = boxes_of(x, ptr)
    with shared(500 * groups):
        _query_cpu(x, ptr, centres, centres_ptr, limit, k, *boxes, most, lists, size)
    offsets = torch.nn.functional.pad(size.cumsum(0), (1, 0))
    idx = torch.empty(int(offsets[-1]), dtype=torch.int64)
    count = torch.empty_like(idx)
    with shared(2 * idx.numel()):
        _compact_cpu(lists, size, ptr, centres_ptr, offsets, k, idx, count)
    return offsets, idx, count


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def _ball_query_fwd_kernel(
    p_x,
    p_ptr,
    p_centres,
    p_batch,
    p_lists,
    p_size,
    groups,
    rows,
    limit,
    k,
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    there_q = o_q < groups
    batch = tl.load(p_batch + o_q, mask=there_q, other=0)
    start_q = tl.load(p_ptr + batch, mask=there_q, other=0)
    stop_q = tl.load(p_ptr + batch + 1, mask=there_q, other=0)
    x = tl.load(p_centres + o_q * 3, mask=there_q, other=0.0)
    y = tl.load(p_centres + o_q * 3 + 1, mask=there_q, other=0.0)
    z = tl.load(p_centres + o_q * 3 + 2, mask=there_q, other=0.0)
    # Centres are sorted by cloud, so a block of them sees one range of points.
    i_n = tl.min(tl.where(there_q, start_q, rows), axis=0)
    end = tl.max(stop_q, axis=0)
    none = 0x7FFFFFFFFFFFFFFF
    best = tl.full((BLOCK_Q,), none, tl.int64)
    count = tl.where(there_q, 0, k)
    while (i_n < end) & (tl.min(count, axis=0) < k):
        o_j = i_n + tl.arange(0, BLOCK_N).to(tl.int64)
        there_j = o_j < end
        a = tl.load(p_x + o_j * 3, mask=there_j, other=0.0)[None, :] - x[:, None]
        b = tl.load(p_x + o_j * 3 + 1, mask=there_j, other=0.0)[None, :] - y[:, None]
        c = tl.load(p_x + o_j * 3 + 2, mask=there_j, other=0.0)[None, :] - z[:, None]
        d = a * a + b * b + c * c
        ours = (o_j[None, :] >= start_q[:, None]) & (o_j[None, :] < stop_q[:, None])
        hit = ours & (d <= limit)
        place = count[:, None] + tl.cumsum(hit.to(tl.int32), axis=1) - 1
        here = o_j[None, :] - start_q[:, None]
        tl.store(p_lists + o_q[:, None] * k + place, here.to(tl.int32), mask=hit & (place < k))
        count += tl.sum(hit.to(tl.int32), axis=1)
        # Non-negative floats are ordered as their bits are: distance above, number below, in one key. NaN is never near.
        key = (d.to(tl.int32, bitcast=True).to(tl.int64) << 32) | here
        best = tl.minimum(best, tl.min(tl.where(ours & (d == d), key, none), axis=1))
        i_n += BLOCK_N
    nearest = tl.where(best == none, 0, best & 0xFFFFFFFF).to(tl.int32)
    tl.store(p_lists + o_q * k, nearest, mask=there_q & (count == 0))
    tl.store(p_size + o_q, tl.minimum(tl.maximum(count, 1), k).to(tl.int64), mask=there_q)


def _launch_lists(
    x: Tensor, ptr: Tensor, centres: Tensor, batch: Tensor, radius: float, k: int
) -> tuple[Tensor, Tensor]:
    """Of each ball int32 [G, k] numbers within the cloud, and how many."""
    groups = centres.shape[0]
    lists = torch.empty((groups, k), dtype=torch.int32, device=x.device)
    size = torch.empty(groups, dtype=torch.int64, device=x.device)
    _ball_query_fwd_kernel[(cdiv(groups, 16),)](
        *(x, ptr, centres, batch, lists, size, groups, x.shape[0], _limit(radius, x.dtype), k),
        BLOCK_Q=16,
        BLOCK_N=64,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return lists, size


def _launch_query(
    x: Tensor, ptr: Tensor, centres: Tensor, centres_ptr: Tensor, radius: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch = ptr_to_batch(centres_ptr, centres.shape[0])
    width = max(1, min(k, x.shape[0]))
    lists, size = _launch_lists(x, ptr, centres, batch, radius, width)
    offsets = torch.nn.functional.pad(size.cumsum(0), (1, 0))
    held = torch.arange(width, device=x.device) < size[:, None]
    idx = (lists + ptr[batch, None])[held]
    count = torch.ones_like(idx)
    count[offsets[:-1]] = k + 1 - size
    return offsets, idx, count


# --- operator, public function ----------------------------------------------------------------------------------


def _fake_query(x: Tensor, ptr: Tensor, centres: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    entries = torch.library.get_ctx().new_dynamic_size()
    idx = ptr.new_empty(entries)
    return ptr.new_empty(centres.shape[0] + 1), idx, torch.empty_like(idx)


_query = operator(
    "ball_query(Tensor x, Tensor ptr, Tensor centres, Tensor centres_ptr, float radius, int k) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_query,
    triton=_launch_query,
    fake=_fake_query,
)


@torch.no_grad()
def ball_query(
    x: Tensor,
    centres: Tensor,
    radius: float,
    k: int,
    *,
    batch: Tensor | None = None,
    centres_batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Groups:
    """The first k points within `radius` of each centre; see the head of this file.

    Args:
        x: positions, dense [B, N, 3], or rows [M, 3] with `batch` [M] (None: one cloud).
        centres: dense [B, S, 3] for dense x, or rows [G, 3] with `centres_batch` [G]; they need not be points of x.
        radius: in the units of x, positive.
        k: the most points of a group, at least 1.

    Returns:
        Groups of rows of x (of x.reshape(-1, 3) for dense x), a group for each centre, in the order of the centres.

    Raises:
        ValueError: shapes do not fit, radius or k are not positive, or (on the CPU) a centre in an empty cloud.
    """
    if not 0 < radius < float("inf") or k < 1:
        raise ValueError(f"radius must be positive and k at least 1; got radius = {radius} and k = {k}.")
    both = positions_of_both(("x", "centres"), x, centres, batch, centres_batch, batch_size)
    return Groups(*_query(*both, float(radius), k))
