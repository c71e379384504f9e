"""three_nn_interpolate on the CPU."""

from __future__ import annotations

import numpy as np
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.numba import launch, njit, shared
from dropfold.kernels.points.boxes import DEPTH, LEAF, NONE, boxes_of, nearest, reach
from dropfold.kernels.points.clouds import transposed
from dropfold.kernels.points.three_nn_interpolate.outputs import EPS, _fake_nearest

CHUNK = 32  # points that a core takes at a time


@njit(parallel=True)
def _nearest_cpu(
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
        stack, far, distances = (
            np.empty(DEPTH, np.int32),
            np.empty(DEPTH, pos.dtype),
            np.empty(LEAF, pos.dtype),
        )
        keys, best = np.empty(k, pos.dtype), np.full(k, NONE, np.int32)
        for e in range(LEAF):
            if order[block, e] == NONE:
                break
            i = query_ptr[b] + order[block, e]
            x, y, z = query[i, 0], query[i, 1], query[i, 2]
            bound = reach(cloud, best, x, y, z)  # of the neighbours of the query before, which lies close by
            nearest(own, numbers, to, tree, x, y, z, bound, stack, far, distances, keys, best)
            total = number(0)
            for n in range(k):
                there = best[n] != NONE
                share = number(1) / (keys[n] + number(EPS)) if there else number(0)
                idx[i, n] = first + (best[n] if there else 0)
                weight[i, n] = share
                total += share
            for n in range(k):
                weight[i, n] *= number(1) / total if total > 0 else number(np.nan)


def three_nn(pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int) -> tuple[Tensor, Tensor]:
    idx, weight = _fake_nearest(pos, ptr, query, query_ptr, k)
    near = boxes_of(query, query_ptr)  # for queries in an order in which each is close to the one before
    boxes = boxes_of(pos, ptr)
    with shared(500 * query.shape[0]):
        launch(_nearest_cpu, pos, ptr, query, query_ptr, near.index, near.leaves, *boxes, idx, weight)
    return idx, weight


@njit(parallel=True)
def _interpolate_cpu(features, idx, weight, out):
    queries, k = idx.shape
    for block in prange((queries + CHUNK - 1) // CHUNK):
        for i in range(block * CHUNK, min(queries, (block + 1) * CHUNK)):
            own = out[i]
            own[:] = 0
            for e in range(k):
                row, w = features[idx[i, e]], weight[i, e]
                for c in range(own.shape[0]):
                    own[c] += w * row[c]


@njit(parallel=True)
def _backward_cpu(dout, weight, ptr, entries, df):
    k = weight.shape[1]
    for block in prange((df.shape[0] + CHUNK - 1) // CHUNK):
        for j in range(block * CHUNK, min(df.shape[0], (block + 1) * CHUNK)):
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
    with shared(0.2 * idx.numel() * wide.shape[1]):
        launch(_interpolate_cpu, wide, idx, weight.to(wide.dtype), out)
    return out.to(features.dtype)


def three_nn_interpolate_bwd(dout: Tensor, idx: Tensor, weight: Tensor, rows: int) -> Tensor:
    wide = dout.to(accumulator(dout.dtype))
    df = wide.new_empty((rows, wide.shape[1]))
    turned = transposed(idx, rows)
    with shared(0.2 * idx.numel() * wide.shape[1]):
        launch(_backward_cpu, wide, weight.to(wide.dtype), *turned, df)
    return df.to(dout.dtype)
