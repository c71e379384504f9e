"""three_nn_interpolate on the CPU: a search of boxes for the neighbours, then sums over them and over their transpose."""

from __future__ import annotations

import numpy as np
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.numba import launch, njit, threads_for
from dropfold.kernels.points.boxes import NO_POINT, POINTS_PER_LEAF, STACK_NODES, boxes_of, nearest, reach
from dropfold.kernels.points.clouds import transpose_lists
from dropfold.kernels.points.three_nn_interpolate.operation import EPS, empty_neighbours

POINTS_PER_CHUNK = 32  # which a thread takes at a time


@njit(parallel=True)
def _find_neighbours(
    pos, ptr, query, query_ptr, order, first_of, points, index, leaves, nodes, child, boxes, idx, weight
):
    k = idx.shape[1]
    number = query.dtype.type  # with a Python number float32 becomes float64
    for block in prange(order.shape[0]):
        b = 0  # the cloud
        while first_of[b + 1] <= block:
            b += 1
        own, numbers = points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]]
        to, tree = child[nodes[b] : nodes[b + 1]], boxes[nodes[b] : nodes[b + 1]]
        cloud, first = pos[ptr[b] : ptr[b + 1]], ptr[b]
        stack, far = np.empty(STACK_NODES, np.int32), np.empty(STACK_NODES, pos.dtype)
        distances, keys = np.empty(POINTS_PER_LEAF, pos.dtype), np.empty(k, pos.dtype)
        best = np.full(k, NO_POINT, np.int32)
        for e in range(POINTS_PER_LEAF):
            if order[block, e] == NO_POINT:
                break
            i = query_ptr[b] + order[block, e]
            x, y, z = query[i, 0], query[i, 1], query[i, 2]
            # The query before lies close by: its neighbours bound the distance of this query's.
            bound = reach(cloud, best, x, y, z)
            nearest(own, numbers, to, tree, x, y, z, bound, stack, far, distances, keys, best)
            total = number(0)
            for n in range(k):
                exists = best[n] != NO_POINT
                w = number(1) / (keys[n] + number(EPS)) if exists else number(0)
                idx[i, n] = first + (best[n] if exists else 0)
                weight[i, n] = w
                total += w
            for n in range(k):
                weight[i, n] *= number(1) / total if total > 0 else number(np.nan)


def three_nn(pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int) -> tuple[Tensor, Tensor]:
    idx, weight = empty_neighbours(pos, ptr, query, query_ptr, k)
    leaves = boxes_of(query, query_ptr)  # each query of a leaf is close to the one before
    boxes = boxes_of(pos, ptr)
    with threads_for(500 * query.shape[0]):
        launch(_find_neighbours, pos, ptr, query, query_ptr, leaves.index, leaves.leaves, *boxes, idx, weight)
    return idx, weight


@njit(parallel=True)
def _interpolate(features, idx, weight, out):
    queries, k = idx.shape
    for block in prange((queries + POINTS_PER_CHUNK - 1) // POINTS_PER_CHUNK):
        for i in range(block * POINTS_PER_CHUNK, min(queries, (block + 1) * POINTS_PER_CHUNK)):
            own = out[i]
            own[:] = 0
            for e in range(k):
                row, w = features[idx[i, e]], weight[i, e]
                for c in range(own.shape[0]):
                    own[c] += w * row[c]


@njit(parallel=True)
def _sum_gradients(dout, weight, ptr, entries, df):
    k = weight.shape[1]
    for block in prange((df.shape[0] + POINTS_PER_CHUNK - 1) // POINTS_PER_CHUNK):
        for j in range(block * POINTS_PER_CHUNK, min(df.shape[0], (block + 1) * POINTS_PER_CHUNK)):
            own = df[j]
            own[:] = 0
            for e in range(ptr[j], ptr[j + 1]):
                i = entries[e] // k
                row, w = dout[i], weight[i, entries[e] - i * k]
                for c in range(own.shape[0]):
                    own[c] += w * row[c]


def three_nn_interpolate_fwd(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    wide = features.to(accumulator(features.dtype))
    out = wide.new_empty((idx.shape[0], wide.shape[1]))
    with threads_for(0.2 * idx.numel() * wide.shape[1]):
        launch(_interpolate, wide, idx, weight.to(wide.dtype), out)
    return out.to(features.dtype)


def three_nn_interpolate_bwd(dout: Tensor, idx: Tensor, weight: Tensor, rows: int) -> Tensor:
    wide = dout.to(accumulator(dout.dtype))
    df = wide.new_empty((rows, wide.shape[1]))
    with threads_for(0.2 * idx.numel() * wide.shape[1]):
        launch(_sum_gradients, wide, weight.to(wide.dtype), *transpose_lists(idx, rows), df)
    return df.to(dout.dtype)
