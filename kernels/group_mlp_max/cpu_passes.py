"""The passes over a tile of entries of groups that a perceptron on groups consists of, between its matrix products.

Entry e of group g = owner[e] holds row j = idx[e] of q and stands count[e] times. With u = scale * y + shift and
a(u) = u for u > 0 and slope * u otherwise:

    rows        z = a(u) - offset of y = q_j + p_g
    activate    the same of a given y
    moments     mean and centred sum of squares of y, entries weighted
    highest     max of y over each group, and the entry that has it
    last_back   the gradient at u under `highest` of z W^T: a dense part and a row of W for each maximum
    collect     what the maxima add to W's gradient
    mask        a'(u) times the gradient at z
    sums        sum g and sum g y_hat
    norm_back   BatchNorm's gradient at y of g at u
    spread      sums of g over the entries of each row and of each group; of p and q over the same

`vectors` [6, C] are scale, shift, mean, 1 / sigma, and the means of g and of g y_hat. A tile is the entries of some whole
groups: on the CPU it stays in the cache; on a GPU (triton_passes.py) it is nearly always all of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.backend.workers import each, workers
from dropfold.kernels.group_mlp_max.entries import ROWS_PER_BLOCK, Entries, Tile
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw.cpu import noise_row, numba_noise
from dropfold.kernels.noise.elementwise.cpu import leaky_relu, scalar

ROWS_PER_PAD = 256  # tiles are padded with rows of zeros to a multiple of this


@njit
def rows_pass(q, p, idx, owner, start, vectors, slope, offset, z):
    rows, channels = z.shape
    for m in range(rows):
        j, g = idx[start + m], owner[start + m]
        for c in range(channels):
            u = vectors[0, c] * (q[j, c] + p[g, c]) + vectors[1, c]
            z[m, c] = leaky_relu(u, slope) - offset[c]


@njit
def activate_pass(y, vectors, slope, offset, z):
    rows, channels = z.shape
    for m in range(rows):
        for c in range(channels):
            u = vectors[0, c] * y[m, c] + vectors[1, c]
            z[m, c] = leaky_relu(u, slope) - offset[c]


@njit
def moments_pass(y, count, start, block, means, m2s, weights):
    rows, channels = y.shape
    weighted, one = count.shape[0] > 0, y.dtype.type(1)
    for b in range(means.shape[0]):
        mean, m2 = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        total = y.dtype.type(0)
        for m in range(b * block, min(rows, (b + 1) * block)):
            w = count[start + m] if weighted else one
            total += w
            for c in range(channels):
                mean[c] += w * y[m, c]
        for c in range(channels):
            mean[c] /= total
        for m in range(b * block, min(rows, (b + 1) * block)):
            w = count[start + m] if weighted else one
            for c in range(channels):
                d = y[m, c] - mean[c]
                m2[c] += w * d * d
        means[b] = mean
        m2s[b] = m2
        weights[b] = total


@njit
def highest_pass(y, ptr, first, last, start, idx, mode, keep_scale, p, noise_scale, seed, maximum, argmax):
    channels = y.shape[1]
    f = np.empty(channels, np.float32)
    best, arg = np.empty(channels, y.dtype), np.empty(channels, np.int32)
    for g in range(first, last):
        best[:] = -np.inf
        arg[:] = -1
        for e in range(ptr[g], ptr[g + 1]):
            if mode == 2 and keep_scale[idx[e]] == 0:
                continue
            if mode == 1:
                noise_row(mode, keep_scale, p, noise_scale, seed, idx[e], f)
            for c in range(channels):
                # Read before any store: what a store may change is not vectorised.
                value, largest = y[e - start, c], best[c]
                better = (value > largest) | (value != value)
                if mode == 1:
                    better &= f[c] > 0
                arg[c] = np.int32(e) if better else arg[c]
                best[c] = value if better else largest
        maximum[g] = best
        argmax[g] = arg


@njit
def last_back_pass(dense, z, constant, count, slope, offset, g, argmax, weight, ptr, first, last, start):
    channels = z.shape[1]
    weighted, one = count.shape[0] > 0, z.dtype.type(1)
    for i in range(first, last):
        lo, hi = ptr[i] - start, ptr[i + 1] - start
        for m in range(lo, hi):
            w = count[start + m] if weighted else one
            for c in range(channels):
                dense[m, c] = w * (dense[m, c] + constant[c])
        for o in range(weight.shape[0]):
            value, e = g[i, o], argmax[i, o]
            if e >= 0 and value != 0:
                for c in range(channels):
                    dense[e - start, c] += value * weight[o, c]
        for m in range(lo, hi):
            for c in range(channels):
                d, rising = dense[m, c], z[m, c] > -offset[c]
                dense[m, c] = d if rising else slope * d


@njit
def collect_pass(z, g, argmax, first, last, start, dweight):
    for i in range(first, last):
        for o in range(dweight.shape[0]):
            value, e = g[i, o], argmax[i, o]
            if e >= 0 and value != 0:
                for c in range(dweight.shape[1]):
                    dweight[o, c] += value * z[e - start, c]


@njit
def mask_pass(dz, z, slope):
    rows, channels = z.shape
    for m in range(rows):
        for c in range(channels):
            d, rising = dz[m, c], z[m, c] > 0
            dz[m, c] = d if rising else slope * d


@njit
def sums_pass(g, y, vectors, block, sums):
    rows, channels = y.shape
    for b in range(sums.shape[0]):
        plain, with_y_hat = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        for m in range(b * block, min(rows, (b + 1) * block)):
            for c in range(channels):
                plain[c] += g[m, c]
                with_y_hat[c] += g[m, c] * ((y[m, c] - vectors[2, c]) * vectors[3, c])
        sums[b, 0] = plain
        sums[b, 1] = with_y_hat


@njit
def norm_back_pass(g, y, vectors, count, start):
    rows, channels = g.shape
    weighted, one = count.shape[0] > 0, y.dtype.type(1)
    for m in range(rows):
        w = count[start + m] if weighted else one
        for c in range(channels):
            y_hat = (y[m, c] - vectors[2, c]) * vectors[3, c]
            g[m, c] = vectors[0, c] * (g[m, c] - w * (vectors[4, c] + vectors[5, c] * y_hat))


@njit
def spread_pass(g, q, ptr, idx, count, first, last, start, gq, gp, s):
    rows, channels = g.shape
    weighted, one = count.shape[0] > 0, g.dtype.type(1)
    for m in range(rows):
        j = idx[start + m]
        for c in range(channels):
            gq[j, c] += g[m, c]
    for i in range(first, last):
        for e in range(ptr[i], ptr[i + 1]):
            j, w = idx[e], count[e] if weighted else one
            for c in range(channels):
                gp[i, c] += g[e - start, c]
            for c in range(channels):
                s[i, c] += w * q[j, c]


@njit
def spread_groups_pass(p, idx, owner, count, start, stop, part, parts, d):
    """Adds p to every `parts`-th row, in the order of the entries whatever `parts` is."""
    channels = p.shape[1]
    weighted, one = count.shape[0] > 0, p.dtype.type(1)
    for e in range(start, stop):
        j = idx[e]
        if j % parts == part:
            i, w = owner[e], count[e] if weighted else one
            for c in range(channels):
                d[j, c] += w * p[i, c]


def _padded(like: Tensor, t: Tile, channels: int) -> tuple[Tensor, Tensor]:
    """Memory for a tile's rows and for padding with zeros, and the rows alone: oneDNN compiles each size anew, so few do."""
    rows = t.stop - t.start
    z = like.new_empty((cdiv(rows, ROWS_PER_PAD) * ROWS_PER_PAD, channels))
    z[rows:] = 0
    return z, z[:rows]


class OnCPU:
    """The passes in numba. The GPU's are `triton_passes.OnGPU`, with the same methods."""

    parts = staticmethod(workers)
    each = staticmethod(each)

    @staticmethod
    def tile(channels: int) -> int:
        """Entries of a tile: its rows of `channels` numbers fill about two MiB in float32."""
        return max(1024, (1 << 19) // channels)

    @staticmethod
    def rows(e: Entries, t: Tile, vectors: Tensor, slope: float, offset: Tensor) -> Tensor:
        z, rows = _padded(e.q, t, e.q.shape[1])
        launch(rows_pass, e.q, e.p, e.idx, e.owner, t.start, vectors, scalar(slope, z.dtype), offset, rows)
        return z

    @staticmethod
    def activate(y: Tensor, t: Tile, vectors: Tensor, slope: float, offset: Tensor) -> Tensor:
        z, rows = _padded(y, t, y.shape[1])
        launch(activate_pass, y, vectors, scalar(slope, y.dtype), offset, rows)
        return z

    @staticmethod
    def moments(y: Tensor, e: Entries, t: Tile) -> tuple[Tensor, Tensor, Tensor]:
        y = y[: t.stop - t.start]
        blocks = cdiv(y.shape[0], ROWS_PER_BLOCK)
        means, m2s = y.new_empty((2, blocks, y.shape[1]))
        weights = y.new_empty(blocks)
        launch(moments_pass, y, e.count, t.start, ROWS_PER_BLOCK, means, m2s, weights)
        return means, m2s, weights

    @staticmethod
    def highest(
        y: Tensor, e: Entries, t: Tile, noise: NoiseArguments, maximum: Tensor, argmax: Tensor
    ) -> None:
        launch(highest_pass, y, e.ptr, t.first, t.last, t.start, e.idx, *numba_noise(noise), maximum, argmax)

    @staticmethod
    def last_back(
        dense: Tensor, z: Tensor, e: Entries, t: Tile, constant: Tensor, slope: float, offset: Tensor,
        g: Tensor, argmax: Tensor, weight: Tensor,
    ) -> Tensor:  # fmt: skip
        launch(
            last_back_pass, dense, z, constant, e.count, scalar(slope, z.dtype), offset, g, argmax, weight,
            e.ptr, t.first, t.last, t.start,
        )  # fmt: skip
        return dense

    @staticmethod
    def collect(z: Tensor, e: Entries, t: Tile, g: Tensor, argmax: Tensor, dweight: Tensor) -> None:
        launch(collect_pass, z, g, argmax, t.first, t.last, t.start, dweight)

    @staticmethod
    def mask(dz: Tensor, z: Tensor, slope: float) -> Tensor:
        launch(mask_pass, dz, z, scalar(slope, z.dtype))
        return dz

    @staticmethod
    def sums(g: Tensor, y: Tensor, t: Tile, vectors: Tensor) -> Tensor:
        g, y = g[: t.stop - t.start], y[: t.stop - t.start]
        sums = y.new_empty((cdiv(y.shape[0], ROWS_PER_BLOCK), 2, y.shape[1]))
        launch(sums_pass, g, y, vectors, ROWS_PER_BLOCK, sums)
        return sums.sum(0, dtype=torch.float64)

    @staticmethod
    def norm_back(g: Tensor, y: Tensor, vectors: Tensor, e: Entries, t: Tile) -> Tensor:
        launch(norm_back_pass, g[: t.stop - t.start], y, vectors, e.count, t.start)
        return g

    @staticmethod
    def spread(g: Tensor, e: Entries, t: Tile, gq: Tensor, gp: Tensor, s: Tensor) -> None:
        at = (e.ptr, e.idx, e.count, t.first, t.last, t.start)
        launch(spread_pass, g[: t.stop - t.start], e.q, *at, gq, gp, s)

    @staticmethod
    def spread_groups(e: Entries, d: Tensor) -> None:
        parts = workers()
        at = (e.p, e.idx, e.owner, e.count, 0, len(e.idx))
        each(lambda part: launch(spread_groups_pass, *at, part, parts, d), range(parts))
