"""edge_conv on the CPU: one loop over the graph forward, one over the transposed graph backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw.cpu import noise_row, numba_noise
from dropfold.kernels.norm.edge_conv.operation import POINTS_PER_BLOCK, empty_forward
from dropfold.kernels.points.clouds import check_rows, transpose_lists


def edge_conv_fwd(pq: Tensor, idx: Tensor, *noise: Any) -> tuple[Tensor, ...]:
    check_rows(idx, pq.shape[0])
    outputs = empty_forward(pq, idx)
    pq, noise = pq.to(outputs[0].dtype), numba_noise(NoiseArguments(*noise))
    launch(_reduce_neighbours, pq, idx, POINTS_PER_BLOCK, *noise, *outputs)
    return outputs


def edge_conv_bwd(
    pq: Tensor, g: Tensor, total: Tensor, argmax: Tensor, idx: Tensor, vectors: Tensor
) -> Tensor:
    ptr, entries = transpose_lists(idx, idx.shape[0])
    dpq = torch.empty_like(pq, dtype=g.dtype)
    graph, options = (idx, ptr, entries), (*vectors.unbind(0), POINTS_PER_BLOCK)
    launch(_reduce_gradient, pq.to(g.dtype), g, total, argmax, *graph, *options, dpq)
    return dpq.to(pq.dtype)


@njit(parallel=True)
def _reduce_neighbours(
    pq, idx, block, mode, keep_scale, p, noise_scale, seed, maximum, argmax, total, means, m2s
):  # fmt: skip
    rows, k = idx.shape
    channels = maximum.shape[1]
    number = pq.dtype.type  # an integer beside float32 would make float64
    for b in prange(means.shape[0]):
        f = np.empty(channels, np.float32)
        best = np.empty(channels, pq.dtype)
        arg = np.empty(channels, np.int32)
        s = np.empty(channels, pq.dtype)
        ss = np.empty(channels, pq.dtype)
        pilot = pq[idx[b * block, 0], channels:].copy()
        origin = pq[b * block, :channels] + pilot
        first = np.zeros(channels, pq.dtype)
        second = np.zeros(channels, pq.dtype)
        edges = k * (min(rows, (b + 1) * block) - b * block)
        for i in range(b * block, min(rows, (b + 1) * block)):
            if mode == 0:
                best[:] = pq[idx[i, 0], channels:]
                arg[:] = 0
            else:
                best[:] = -np.inf
                arg[:] = k  # none yet
            s[:] = 0
            ss[:] = 0
            for pos in range(k):
                j = idx[i, pos]
                if mode != 0:
                    noise_row(mode, keep_scale, p, noise_scale, seed, j, f)
                # Arrays are read once, before any store: what a store may change is not vectorised.
                for c in range(channels):
                    q, largest = pq[j, channels + c], best[c]
                    d = q - pilot[c]
                    better = (q > largest) | (q != q)
                    if mode != 0:
                        better = (better | (arg[c] == k)) & (f[c] > 0)
                    s[c] += d
                    ss[c] += d * d
                    arg[c] = np.int32(pos) if better else arg[c]
                    best[c] = q if better else largest
            for c in range(channels):
                p_i, sum_q = pq[i, c], s[c]
                from_origin = p_i + pilot[c] - origin[c]
                sum_y = number(k) * from_origin + sum_q
                first[c] += sum_y
                second[c] += from_origin * (sum_y + sum_q) + ss[c]
                maximum[i, c] = p_i + best[c] if mode == 0 or arg[c] < k else 0
                argmax[i, c] = arg[c]
                total[i, c] = sum_q + number(k) * pilot[c]
        for c in range(channels):
            shift = first[c] / edges
            means[b, c] = origin[c] + shift
            m2s[b, c] = max(second[c] - first[c] * shift, 0)


@njit(parallel=True)
def _reduce_gradient(pq, g, total, argmax, idx, ptr, entries, scale, mean, c1, c2, block, dpq):
    rows, k = idx.shape
    channels = g.shape[1]
    number = g.dtype.type
    zero, edges = number(0), number(k)
    for b in prange((rows + block - 1) // block):
        hits = np.empty(channels, g.dtype)
        dense = np.empty(channels, g.dtype)
        for j in range(b * block, min(rows, (b + 1) * block)):
            hits[:] = 0
            dense[:] = 0
            for e in range(ptr[j], ptr[j + 1]):
                i = entries[e] // k
                pos = np.int32(entries[e] - i * k)
                for c in range(channels):
                    p, hit = pq[i, c], argmax[i, c] == pos
                    hits[c] += g[i, c] if hit else zero
                    dense[c] += p
            degree = number(ptr[j + 1] - ptr[j])
            for c in range(channels):
                p, q = pq[j, c], pq[j, channels + c]
                near = dense[c] + degree * (q - mean[c])
                own = edges * (p - mean[c]) + total[j, c]
                dp = scale[c] * (g[j, c] - edges * c1[c] - c2[c] * own)
                dpq[j, channels + c] = scale[c] * (hits[c] - degree * c1[c] - c2[c] * near)
                dpq[j, c] = dp
