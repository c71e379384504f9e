"""The passes over a tile of entries of groups that a perceptron on groups consists of, between its matrix products.

Entry e of group g = owner[e] holds row j = idx[e] of q and stands count[e] times. With u = scale * y + shift and
a(u) = u for u > 0 and slope * u otherwise:

    rows        z = a(u) - offset of y = q_j + p_g
    activate    the same of a given y
    moments     mean and centred sum of squares of y, entries weighed
    highest     max of y over each group, and the entry that has it
    last_back   the gradient at u under `highest` of z W^T: a dense part and the winners' rows of W
    collect     the winners' part of W's gradient
    mask        a'(u) times the gradient at z
    sums        sum g and sum g y_hat
    norm_back   BatchNorm's gradient at y of g at u
    spread      sums of g over the entries of each row and of each group; of p and q over the same

`vectors` [6, C] are scale, shift, mean, 1 / sigma, and the means of g and of g y_hat. A tile is the entries of some whole
groups: on the CPU it stays in the cache; on a GPU (kernels/_group_kernels.py) it is nearly always all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels._noise import ELEMENTS, Drawn, noise_row, numba_noise
from kernels._norm_pass import scalar
from kernels._numba import njit

if TYPE_CHECKING:
    from numba import prange

BLOCK = 64  # rows that a thread takes at a time
MOMENTS = 256  # rows whose sums are taken in float32 before they are merged in float64
GROUPS = 8  # groups that a thread takes at a time
PIECE = 128  # channels of a group that a thread takes at a time


class Entries(NamedTuple):
    """The entries of all groups."""

    q: Tensor  # [M, C]
    p: Tensor  # [G, C]
    ptr: Tensor  # [G + 1]
    idx: Tensor  # [E]
    owner: Tensor  # [E] int32
    count: Tensor  # type: ignore[assignment]  # [E] in the type of q, or [0]: each entry stands once


class Tile(NamedTuple):
    """Groups first .. last - 1: entries start .. stop - 1."""

    first: int
    last: int
    start: int
    stop: int


def tiles(entries: Entries, size: int) -> Iterator[Tile]:
    """Whole groups of about `size` entries together."""
    groups, total = entries.ptr.shape[0] - 1, entries.idx.shape[0]
    if total <= size:
        return iter([Tile(0, groups, 0, total)] if total else [])
    starts = torch.arange(0, total, size, device=entries.ptr.device)
    first = torch.searchsorted(entries.ptr, starts, right=True) - 1
    cuts = [*first.unique().tolist(), groups]
    bounds = entries.ptr[cuts].tolist()
    return (Tile(*g, *e) for g, e in zip(pairwise(cuts), pairwise(bounds), strict=True))


@njit(parallel=True)
def _rows_cpu(q, p, idx, owner, start, vectors, slope, offset, block, z):
    rows, channels = z.shape
    for b in prange((rows + block - 1) // block):
        for m in range(b * block, min(rows, (b + 1) * block)):
            j, g = idx[start + m], owner[start + m]
            for c in range(channels):
                u = vectors[0, c] * (q[j, c] + p[g, c]) + vectors[1, c]
                z[m, c] = (u if u > 0 else slope * u) - offset[c]


@njit(parallel=True)
def _activate_cpu(y, vectors, slope, offset, block, z):
    rows, channels = z.shape
    for b in prange((rows + block - 1) // block):
        for m in range(b * block, min(rows, (b + 1) * block)):
            for c in range(channels):
                u = vectors[0, c] * y[m, c] + vectors[1, c]
                z[m, c] = (u if u > 0 else slope * u) - offset[c]


@njit(parallel=True)
def _moments_cpu(y, count, start, block, means, m2s, weights):
    rows, channels = y.shape
    weighted, one = count.shape[0] > 0, y.dtype.type(1)
    for b in prange(means.shape[0]):
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


@njit(parallel=True)
def _highest_cpu(
    y, ptr, first, last, start, idx, block, piece, mode, factor, rate, noise_scale, seed, top, where
):
    channels = y.shape[1]
    pieces = (channels + piece - 1) // piece
    for item in prange((last - first + block - 1) // block * pieces):
        b, lo = item // pieces, item % pieces * piece
        hi = min(channels, lo + piece)
        f = np.empty(channels if mode == 1 else 0, np.float32)
        best, arg = np.empty(hi - lo, y.dtype), np.empty(hi - lo, np.int32)
        for g in range(first + b * block, min(last, first + (b + 1) * block)):
            best[:] = -np.inf
            arg[:] = -1
            for e in range(ptr[g], ptr[g + 1]):
                if mode == 2 and factor[idx[e]] == 0:
                    continue
                if mode == 1:
                    noise_row(mode, factor, rate, noise_scale, seed, idx[e], f)
                row = y[e - start, lo:hi]
                for c in range(hi - lo):
                    # Read before any store: what a store may change is not vectorised.
                    value, held = row[c], best[c]
                    better = (value > held) | (value != value)
                    if mode == 1:
                        better &= f[lo + c] > 0
                    arg[c] = np.int32(e) if better else arg[c]
                    best[c] = value if better else held
            top[g, lo:hi] = best
            where[g, lo:hi] = arg


@njit(parallel=True)
def _last_back_cpu(
    dense, z, constant, count, slope, offset, g, where, weight, ptr, first, last, start, block
):
    channels = z.shape[1]
    weighted, one = count.shape[0] > 0, z.dtype.type(1)
    for b in prange((last - first + block - 1) // block):
        for i in range(first + b * block, min(last, first + (b + 1) * block)):
            lo, hi = ptr[i] - start, ptr[i + 1] - start
            for m in range(lo, hi):
                w = count[start + m] if weighted else one
                for c in range(channels):
                    dense[m, c] = w * (dense[m, c] + constant[c])
            for o in range(weight.shape[0]):
                value, e = g[i, o], where[i, o]
                if e >= 0 and value != 0:
                    for c in range(channels):
                        dense[e - start, c] += value * weight[o, c]
            for m in range(lo, hi):
                for c in range(channels):
                    d, rising = dense[m, c], z[m, c] > -offset[c]
                    dense[m, c] = d if rising else slope * d


@njit(parallel=True)
def _collect_cpu(z, g, where, first, last, start, block, dweight):
    out, channels = dweight.shape
    for b in prange((out + block - 1) // block):
        for i in range(first, last):
            for o in range(b * block, min(out, (b + 1) * block)):
                value, e = g[i, o], where[i, o]
                if e >= 0 and value != 0:
                    for c in range(channels):
                        dweight[o, c] += value * z[e - start, c]


@njit(parallel=True)
def _mask_cpu(dz, z, slope, block):
    rows, channels = z.shape
    for b in prange((rows + block - 1) // block):
        for m in range(b * block, min(rows, (b + 1) * block)):
            for c in range(channels):
                d, rising = dz[m, c], z[m, c] > 0
                dz[m, c] = d if rising else slope * d


@njit(parallel=True)
def _sums_cpu(g, y, vectors, block, sums):
    rows, channels = y.shape
    for b in prange(sums.shape[0]):
        plain, hatted = np.zeros(channels, y.dtype), np.zeros(channels, y.dtype)
        for m in range(b * block, min(rows, (b + 1) * block)):
            for c in range(channels):
                plain[c] += g[m, c]
                hatted[c] += g[m, c] * ((y[m, c] - vectors[2, c]) * vectors[3, c])
        sums[b, 0] = plain
        sums[b, 1] = hatted


@njit(parallel=True)
def _norm_back_cpu(g, y, vectors, count, start, block):
    rows, channels = y.shape
    weighted, one = count.shape[0] > 0, y.dtype.type(1)
    for b in prange((rows + block - 1) // block):
        for m in range(b * block, min(rows, (b + 1) * block)):
            w = count[start + m] if weighted else one
            for c in range(channels):
                hat = (y[m, c] - vectors[2, c]) * vectors[3, c]
                g[m, c] = vectors[0, c] * (g[m, c] - w * (vectors[4, c] + vectors[5, c] * hat))


@njit(parallel=True)
def _spread_rows_cpu(g, p, idx, owner, count, start, parts, gq, d):
    """Each thread has every `parts`-th row, and meets its entries in their order whatever `parts` is."""
    rows, channels = g.shape
    weighted, one = count.shape[0] > 0, g.dtype.type(1)
    for part in prange(parts):
        for m in range(rows):
            j = idx[start + m]
            if j % parts == part:
                i, w = owner[start + m], count[start + m] if weighted else one
                for c in range(channels):
                    gq[j, c] += g[m, c]
                for c in range(channels):
                    d[j, c] += w * p[i, c]


@njit(parallel=True)
def _spread_groups_cpu(g, q, ptr, idx, count, first, last, start, block, gp, s):
    channels = g.shape[1]
    weighted, one = count.shape[0] > 0, g.dtype.type(1)
    for b in prange((last - first + block - 1) // block):
        for i in range(first + b * block, min(last, first + (b + 1) * block)):
            for e in range(ptr[i], ptr[i + 1]):
                j, w = idx[e], count[e] if weighted else one
                for c in range(channels):
                    gp[i, c] += g[e - start, c]
                for c in range(channels):
                    s[i, c] += w * q[j, c]


def _blocks(rows: int, block: int) -> int:
    return -(-rows // block)


class OnCPU:
    """The passes in numba. A GPU's are `kernels._group_kernels.OnGPU`, with the same methods."""

    @staticmethod
    def tile(channels: int) -> int:
        """Entries of a tile: its rows of `channels` numbers fill about a MiB in float32."""
        return max(1024, (1 << 18) // channels)

    @staticmethod
    def rows(e: Entries, t: Tile, vectors: Tensor, slope: float, offset: Tensor) -> Tensor:
        z = e.q.new_empty((t.stop - t.start, e.q.shape[1]))
        at = (e.q, e.p, e.idx, e.owner, t.start)
        _rows_cpu(*at, vectors, scalar(slope, z.dtype), offset, BLOCK, z)
        return z

    @staticmethod
    def activate(y: Tensor, vectors: Tensor, slope: float, offset: Tensor) -> Tensor:
        z = torch.empty_like(y)
        _activate_cpu(y, vectors, scalar(slope, y.dtype), offset, BLOCK, z)
        return z

    @staticmethod
    def moments(y: Tensor, e: Entries, t: Tile) -> tuple[Tensor, Tensor, Tensor]:
        blocks = _blocks(y.shape[0], MOMENTS)
        means, m2s = y.new_empty((2, blocks, y.shape[1]))
        weights = y.new_empty(blocks)
        _moments_cpu(y, e.count, t.start, MOMENTS, means, m2s, weights)
        return means, m2s, weights

    @staticmethod
    def highest(y: Tensor, e: Entries, t: Tile, drawn: Drawn, top: Tensor, where: Tensor) -> None:
        # DropFeat's numbers are drawn for a whole row.
        piece = y.shape[1] if drawn.mode == ELEMENTS else PIECE
        at = (e.ptr, t.first, t.last, t.start, e.idx)
        _highest_cpu(y, *at, GROUPS, piece, *numba_noise(drawn), top, where)

    @staticmethod
    def last_back(
        dense: Tensor, z: Tensor, e: Entries, t: Tile, constant: Tensor, slope: float, offset: Tensor,
        g: Tensor, where: Tensor, weight: Tensor,
    ) -> Tensor:  # fmt: skip
        at = (e.ptr, t.first, t.last, t.start, GROUPS)
        _last_back_cpu(dense, z, constant, e.count, scalar(slope, z.dtype), offset, g, where, weight, *at)
        return dense

    @staticmethod
    def collect(z: Tensor, e: Entries, t: Tile, g: Tensor, where: Tensor, dweight: Tensor) -> None:
        _collect_cpu(z, g, where, t.first, t.last, t.start, 16, dweight)

    @staticmethod
    def mask(dz: Tensor, z: Tensor, slope: float) -> Tensor:
        _mask_cpu(dz, z, scalar(slope, z.dtype), BLOCK)
        return dz

    @staticmethod
    def sums(g: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
        sums = y.new_empty((_blocks(y.shape[0], MOMENTS), 2, y.shape[1]))
        _sums_cpu(g, y, vectors, MOMENTS, sums)
        return sums.sum(0, dtype=torch.float64)

    @staticmethod
    def norm_back(g: Tensor, y: Tensor, vectors: Tensor, e: Entries, t: Tile) -> Tensor:
        _norm_back_cpu(g, y, vectors, e.count, t.start, BLOCK)
        return g

    @staticmethod
    def spread(g: Tensor, e: Entries, t: Tile, gq: Tensor, d: Tensor, gp: Tensor, s: Tensor) -> None:
        _spread_rows_cpu(g, e.p, e.idx, e.owner, e.count, t.start, torch.get_num_threads(), gq, d)
        _spread_groups_cpu(g, e.q, e.ptr, e.idx, e.count, t.first, t.last, t.start, GROUPS, gp, s)
