r"""k nearest neighbours within each cloud, in coordinates or in feature space.

    idx[i] = the k points j of i's cloud with the smallest |x_i - x_j|^2, in ascending order

The point itself is its own first neighbour, at distance 0 exactly (unless a copy of it has a smaller index). At equal
distances the smaller index wins, on every device. With at most 8 channels distances are sums of squared differences;
with more they are |x_i|^2 + |x_j|^2 - 2 x_i x_j of the cloud's centred features, one blocked matrix product, and points
whose distances differ by less than rounding may change places. Memory grows with N k and not with N^2. There is no
gradient: the choice of neighbours is discrete. Half precision is read as float32, and autocast is not applied.

Cost: N^2 C multiply-adds a cloud; on the CPU clouds of more than 4,096 points in 3-D are searched in boxes of points, which
finds the same neighbours in time that grows with N log N.

Source: the graph of DGCNN (Wang et al. 2019, section 3.2).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import mm
from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import cdiv, jit, next_power_of_2
from dropfold.kernels.points.boxes import DEPTH, LEAF, NONE, boxes_of, nearest, reach
from dropfold.kernels.points.clouds import dense_ptr, ptr_to_batch, to_rows

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

DIRECT = 8  # channels up to which squared differences are summed
GROUPS = 128  # whose minima bound the search on the CPU
SEARCH = 4096  # points of a cloud in 3-D above which boxes of points are searched on the CPU
CHUNK = 32  # queries that a core takes at a time


# --- CPU ---------------------------------------------------------------------------------------------------------


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


def _cpu_knn(x: Tensor, ptr: Tensor, k: int) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    out = torch.empty((x.shape[0], k), dtype=torch.int64)
    offsets = ptr.tolist()
    if x.shape[1] <= DIRECT:
        most = max((stop - start for start, stop in pairwise(offsets)), default=0)
        if x.shape[1] == 3 and most > SEARCH:
            _knn_boxes_cpu(x.contiguous(), ptr, *boxes_of(x.contiguous(), ptr), out)
            return out
        _knn_direct_cpu(x.contiguous(), ptr, ptr_to_batch(ptr, x.shape[0]), k, most, out)
        return out
    for start, stop in pairwise(offsets):
        cloud = x[start:stop] - x[start:stop].mean(0)
        squares = cloud.square().sum(1)
        tile = max(4 * CHUNK, 2**19 // max(1, stop - start))  # products of 2 MiB stay in the cache
        for first in range(start, stop, tile):
            queries = cloud[first - start : first - start + tile]
            _select_cpu(mm(queries, cloud.T), squares, first, start, k, out)
    return out


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def _knn_fwd_kernel(
    p_x, p_squares, p_batch, p_ptr, p_out, rows, channels, k, DIRECT: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    o_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    there_q = o_q < rows
    batch = tl.load(p_batch + o_q, mask=there_q, other=0)
    start_q = tl.load(p_ptr + batch, mask=there_q, other=0)
    stop_q = tl.load(p_ptr + batch + 1, mask=there_q, other=0)
    # Rows are sorted by cloud, so a block of queries sees one range of candidates.
    begin = tl.min(tl.where(there_q, start_q, rows), axis=0)
    end = tl.max(stop_q, axis=0)
    none = 0x7FFFFFFFFFFFFFFF
    best = tl.full((BLOCK_Q, BLOCK_N), none, tl.int64)
    o_n = tl.arange(0, BLOCK_N)
    for i_n in range(begin, end, BLOCK_N):
        o_j = i_n + o_n.to(tl.int64)
        there_j = o_j < end
        d = tl.zeros((BLOCK_Q, BLOCK_N), tl.float32)
        if DIRECT:
            for c in range(channels):
                q = tl.load(p_x + o_q * channels + c, mask=there_q, other=0.0).to(tl.float32)
                n = tl.load(p_x + o_j * channels + c, mask=there_j, other=0.0).to(tl.float32)
                d += (q[:, None] - n[None, :]) * (q[:, None] - n[None, :])
        else:
            for i_c in range(0, channels, BLOCK_K):
                o_c = i_c + tl.arange(0, BLOCK_K)
                q = tl.load(
                    p_x + o_q[:, None] * channels + o_c[None, :],
                    mask=there_q[:, None] & (o_c[None, :] < channels),
                    other=0.0,
                )
                n = tl.load(
                    p_x + o_j[None, :] * channels + o_c[:, None],
                    mask=there_j[None, :] & (o_c[:, None] < channels),
                    other=0.0,
                )
                d = tl.dot(q, n, d, input_precision="ieee")
            squares_q = tl.load(p_squares + o_q, mask=there_q, other=0.0)
            squares_n = tl.load(p_squares + o_j, mask=there_j, other=0.0)
            d = tl.maximum(squares_q[:, None] + squares_n[None, :] - 2 * d, 0.0)
            d = tl.where(o_q[:, None] == o_j[None, :], 0.0, d)
        # Non-negative floats are ordered as their bits are: distance above, row number below, in one key.
        key = (d.to(tl.int32, bitcast=True).to(tl.int64) << 32) | o_j[None, :]
        ours = (o_j[None, :] >= start_q[:, None]) & (o_j[None, :] < stop_q[:, None])
        key = tl.where(ours, key, none)
        if tl.min(tl.min(key, axis=1) - tl.max(best, axis=1), axis=0) < 0:
            # Ascending against descending: the smaller of each pair are the BLOCK_N smallest of both.
            best = tl.sort(tl.minimum(best, tl.sort(key, dim=1, descending=True)), dim=1)
    # A cloud of fewer than k points: the point itself fills its list.
    best = tl.where(best == none, o_q[:, None], best)
    o = o_q[:, None] * k + o_n[None, :]
    tl.store(p_out + o, best & 0xFFFFFFFF, mask=there_q[:, None] & (o_n[None, :] < k))


def _launch_knn(x: Tensor, ptr: Tensor, k: int) -> Tensor:
    x = x.float().contiguous()
    rows, channels = x.shape
    batch = torch.searchsorted(ptr, torch.arange(rows, device=x.device), right=True) - 1
    direct = channels <= DIRECT
    squares = x
    if not direct:
        sums = torch.zeros((ptr.shape[0] - 1, channels), device=x.device).index_add_(0, batch, x)
        x = x - (sums / (ptr[1:] - ptr[:-1])[:, None])[batch]
        squares = x.square().sum(1)
    out = torch.empty((rows, k), dtype=torch.int64, device=x.device)
    block_n = max(32, next_power_of_2(k))
    block_q = max(1 if direct else 16, 512 // block_n)
    _knn_fwd_kernel[(cdiv(rows, block_q),)](
        *(x, squares, batch, ptr, out, rows, channels, k),
        DIRECT=direct,
        BLOCK_Q=block_q,
        BLOCK_N=block_n,
        BLOCK_K=32,
        num_warps=8 if block_q * block_n > 512 else 4,
    )
    return out


_knn = operator(
    "knn(Tensor x, Tensor ptr, int k) -> Tensor",
    cpu=_cpu_knn,
    triton=_launch_knn,
    fake=lambda x, ptr, k: x.new_empty((x.shape[0], k), dtype=torch.int64),
)


@torch.no_grad()
def knn(x: Tensor, k: int, *, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
    """The k nearest neighbours of each point, itself included; see the head of this file.

    Args:
        x: dense [B, N, C], or rows [M, C] with `batch` [M] (None: one cloud).
        k: at least 1 and at most the points of the smallest cloud.

    Returns:
        int64 [B, N, k] counted within the cloud, or [M, k] row numbers.

    Raises:
        ValueError: k is too large for a cloud, or below 1.
    """
    rows, ptr = to_rows(x, batch, batch_size)
    if k < 1 or (x.dim() == 3 and k > x.shape[1]) or (batch is None and k > x.shape[-2]):
        raise ValueError(
            f"k must be at least 1 and at most the points of a cloud; got k = {k} for x {describe(x)}."
        )
    # On a GPU the check waits for the sizes, unless batch_size says that the caller knows them.
    if batch is not None and (x.is_cpu or batch_size is None) and not torch.compiler.is_compiling():
        smallest = min((ptr[1:] - ptr[:-1]).tolist(), default=0)
        if smallest < k:
            raise ValueError(
                f"k must be at most the points of the smallest cloud; got k = {k} and a cloud of {smallest} points."
            )
    idx = _knn(rows.detach(), ptr, k)
    if x.dim() == 2:
        return idx
    local = dense_ptr(x.shape[0], x.shape[1], x.device)[:-1, None, None]
    return idx.view(x.shape[0], x.shape[1], k) - local
