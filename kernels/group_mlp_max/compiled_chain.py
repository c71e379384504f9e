"""The chain of a tile (chain.py) as one compiled call: passes and products with no Python between them.

Two threads that come back to Python after each pass wait for its lock, and for each other, longer than a pass takes. Here
a tile is cut once more, into pieces whose y and z of all layers stay in a core's own cache, and a thread returns when
the tile is done. For float32 and float64, where `dropfold.kernels.backend.blas` has their product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dropfold.kernels.backend.blas import product, routine
from dropfold.kernels.backend.gemm import scratch, wide
from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.group_mlp_max.chain import Chain, pack
from dropfold.kernels.group_mlp_max.cpu_passes import (
    OnCPU,
    activate_pass,
    collect_pass,
    highest_pass,
    last_back_pass,
    mask_pass,
    moments_pass,
    norm_back_pass,
    rows_pass,
    spread_pass,
    sums_pass,
)
from dropfold.kernels.group_mlp_max.entries import ROWS_PER_BLOCK, LastGradient, Source, Tile
from dropfold.kernels.group_mlp_max.first_layer import identity
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw.cpu import numba_noise

# Numbers of the widest layer in a piece, of which a step holds a few: a core's cache has 1 or 2 MiB.
NUMBERS_PER_PIECE = 1 << 16
NUMBERS_PER_TILE = (
    1 << 20
)  # and in a tile, which is one call; few entries make eight tiles, for threads to share
VECTORS_PER_LAYER = 6


class Layers(NamedTuple):
    """The activated layers 0 .. n - 1 and the products between and after them, one after another in memory."""

    channels: Tensor  # [n + 1] of the layers and of the last product; [1] where there is no product
    weights: Tensor
    vectors: Tensor  # 6 of each layer
    slopes: Tensor  # [n]
    offset: Tensor  # of the last layer
    zeros: Tensor  # the offset of the others


class Workspace(NamedTuple):
    """Memory for a piece's matrices: z of layer i in slot i, y of layer i > 0 in n + i - 1, and after them two for the last
    product and the gradients; entries of a piece."""

    slots: Tensor  # [2 n + 1, numbers]
    size: int


@njit
def _slot(workspace, slot, rows, channels):
    return workspace.slots[slot, : rows * channels].reshape(rows, channels)


@njit
def _vectors(layers, i):
    at, c = VECTORS_PER_LAYER * layers.channels[:i].sum(), layers.channels[i]
    return layers.vectors[at : at + VECTORS_PER_LAYER * c].reshape(VECTORS_PER_LAYER, c)


@njit
def _weight(weights, channels, i):
    at, c = (channels[:i] * channels[1 : i + 1]).sum(), channels[i]
    return weights[at : at + c * channels[i + 1]].reshape(channels[i + 1], c)


@njit
def _piece(ptr, first, last, size):
    """The end of the groups from `first` on that have at most `size` entries together; one group at least."""
    end = first + 1
    while end < last and ptr[end + 1] - ptr[first] <= size:
        end += 1
    return end


@njit
def _layers(blas, e, layers, workspace, start, rows):
    """y and z of all layers into their slots; returns the last z."""
    n, channels = layers.slopes.shape[0], layers.channels
    z = _slot(workspace, 0, rows, channels[0])
    for i in range(n):
        vectors, slope = _vectors(layers, i), layers.slopes[i]
        offset = layers.offset if i == n - 1 else layers.zeros[: channels[i]]
        if i == 0:
            rows_pass(e.q, e.p, e.idx, e.owner, start, vectors, slope, offset, z)
        else:
            y = _slot(workspace, n + i - 1, rows, channels[i])
            product(blas, z, False, _weight(layers.weights, channels, i - 1), True, 0, y)
            z = _slot(workspace, i, rows, channels[i])
            activate_pass(y, vectors, slope, offset, z)
    return z


@njit
def _last(blas, layers, workspace, z):
    """The product after the last layer; where there is none, z."""
    n, channels = layers.slopes.shape[0], layers.channels
    if channels.shape[0] == 1:
        return z
    y = _slot(workspace, 2 * n - 1, z.shape[0], channels[n])
    product(blas, z, False, _weight(layers.weights, channels, n - 1), True, 0, y)
    return y


@njit
def _run_moments(blas, e, layers, workspace, first, last, block):
    rows = e.ptr[last] - e.ptr[first]
    blocks = (
        rows // block + 2 * rows // workspace.size + 2
    )  # two pieces in a row have more than `size` entries
    channels = layers.channels[-1]
    means, m2s = np.empty((blocks, channels), e.q.dtype), np.empty((blocks, channels), e.q.dtype)
    weights = np.empty(blocks, e.q.dtype)
    at = 0
    while first < last:
        end = _piece(e.ptr, first, last, workspace.size)
        start, rows = e.ptr[first], e.ptr[end] - e.ptr[first]
        first = end
        if rows == 0:
            continue
        y = _last(blas, layers, workspace, _layers(blas, e, layers, workspace, start, rows))
        to = at + (rows + block - 1) // block
        moments_pass(y, e.count, start, block, means[at:to], m2s[at:to], weights[at:to])
        at = to
    return means[:at], m2s[:at], weights[:at]


@njit
def _run_forward(
    blas, e, layers, workspace, first, last, mode, keep_scale, p, noise_scale, seed, maximum, argmax, statistics, total,
    outer,
):  # fmt: skip
    n, channels = layers.slopes.shape[0], layers.channels
    while first < last:
        end = _piece(e.ptr, first, last, workspace.size)
        start, rows = e.ptr[first], e.ptr[end] - e.ptr[first]
        if rows:
            z = _layers(blas, e, layers, workspace, start, rows)
            y = _last(blas, layers, workspace, z)
            highest_pass(
                y, e.ptr, first, end, start, e.idx, mode, keep_scale, p, noise_scale, seed, maximum, argmax
            )
            if statistics:
                weighed = z
                if e.count.shape[0]:
                    weighed = _slot(workspace, 2 * n, rows, channels[n - 1])
                    for m in range(rows):
                        for c in range(channels[n - 1]):
                            weighed[m, c] = e.count[start + m] * z[m, c]
                for m in range(rows):
                    for c in range(channels[n - 1]):
                        total[c] += weighed[m, c]
                product(blas, weighed, True, z, False, 1, outer)
        first = end


@njit
def _gradient(blas, e, layers, at_max, workspace, first, last, layer, dweights):
    """The gradient at the u of `layer`; adds to the gradients of the weights, to the last one's what the maxima have."""
    n, channels = layers.slopes.shape[0], layers.channels
    start, rows = e.ptr[first], e.ptr[last] - e.ptr[first]
    with_weights = dweights.shape[0] > 0
    z = _layers(blas, e, layers, workspace, start, rows)
    g = _slot(workspace, 2 * n, rows, channels[n - 1])
    if at_max.matrix.shape[0]:
        product(blas, z, False, at_max.matrix, False, 0, g)
    else:
        g[:] = 0
    last_back_pass(
        g, z, at_max.constant, e.count, layers.slopes[n - 1], layers.offset, at_max.g, at_max.argmax,
        _weight(layers.weights, channels, n - 1), e.ptr, first, last, start,
    )  # fmt: skip
    if with_weights:
        dweight = _weight(dweights, channels, n - 1)
        collect_pass(z, at_max.g, at_max.argmax, first, last, start, dweight)
    for i in range(n - 1, layer, -1):
        y, z = _slot(workspace, n + i - 1, rows, channels[i]), _slot(workspace, i - 1, rows, channels[i - 1])
        norm_back_pass(g, y, _vectors(layers, i), e.count, start)
        if with_weights:
            product(blas, g, True, z, False, 1, _weight(dweights, channels, i - 1))
        lower = _slot(workspace, 2 * n - (n - i) % 2, rows, channels[i - 1])
        product(blas, g, False, _weight(layers.weights, channels, i - 1), False, 0, lower)
        mask_pass(lower, z, layers.slopes[i - 1])
        g = lower
    return g


@njit
def _run_sums(blas, e, layers, at_max, workspace, first, last, layer, block, total):
    n, c = layers.slopes.shape[0], layers.channels[layer]
    sums = np.empty((workspace.slots.shape[1] // (block * c) + 1, 2, c), e.q.dtype)
    while first < last:
        end = _piece(e.ptr, first, last, workspace.size)
        rows = e.ptr[end] - e.ptr[first]
        if rows:
            g = _gradient(blas, e, layers, at_max, workspace, first, end, layer, layers.zeros[:0])
            blocks = (rows + block - 1) // block
            y = _slot(workspace, n + layer - 1, rows, c)
            sums_pass(g, y, _vectors(layers, layer), block, sums[:blocks])
            for b in range(blocks):
                total += sums[b]
        first = end


@njit
def _run_gradients(blas, e, layers, at_max, workspace, first, last, gq, gp, s, dweights):
    while first < last:
        end = _piece(e.ptr, first, last, workspace.size)
        start = e.ptr[first]
        if e.ptr[end] > start:
            g = _gradient(blas, e, layers, at_max, workspace, first, end, 0, dweights)
            spread_pass(g, e.q, e.ptr, e.idx, e.count, first, end, start, gq, gp, s)
        first = end


class CompiledChain(Chain):
    """`Chain` on the CPU, a tile at a time in one call."""

    def __init__(
        self, source: Source, offset: Tensor | None = None, last: LastGradient | None = None
    ) -> None:
        super().__init__(OnCPU, source, offset, last)
        q = self.entries.q
        vectors = self.vectors or [identity(q)]
        slopes = self.slopes or [1.0]
        channels = [v.shape[1] for v in vectors] + [w.shape[0] for w in self.weights[-1:]]
        padded = [torch.nn.functional.pad(v, (0, 0, 0, VECTORS_PER_LAYER - len(v))) for v in vectors]
        zeros = q.new_zeros(max(channels))
        offset = zeros[: vectors[-1].shape[1]] if self.offset is None else self.offset
        self.layers = Layers(
            torch.tensor(channels), pack(self.weights, q), pack(padded, q), q.new_tensor(slopes), offset, zeros
        )  # fmt: skip
        self.slots, self.width = 2 * len(vectors) + 1, max(channels)
        self.size = max(1, NUMBERS_PER_PIECE // self.width)
        self.blas = routine(q.dtype)
        if last is not None:
            self.last = last._replace(matrix=last.matrix.contiguous())

    def tile(self, width: int) -> int:
        return max(NUMBERS_PER_PIECE // width, min(NUMBERS_PER_TILE // width, len(self.entries.idx) // 8), 1)

    def _at(self, t: Tile) -> tuple[Any, ...]:
        """This thread's workspace for the pieces of a tile, of which a large group may be one, and the tile's groups."""
        largest = int(self.entries.ptr[t.first : t.last + 1].diff().max())
        numbers = max(self.size, largest) * self.width
        memory = scratch(self.slots * numbers, self.entries.q.dtype)
        return Workspace(memory.view(self.slots, numbers), self.size), t.first, t.last

    def moments(self, t: Tile) -> tuple[Tensor, ...]:
        moments = launch(_run_moments, self.blas, self.entries, self.layers, *self._at(t), ROWS_PER_BLOCK)
        return tuple(torch.from_numpy(x) for x in moments)

    def highest(
        self, t: Tile, noise: NoiseArguments, maximum: Tensor, argmax: Tensor, statistics: bool
    ) -> tuple[Tensor, Tensor] | None:
        channels = self.weights[-1].shape[1] if statistics else 0
        total = maximum.new_zeros(channels, dtype=torch.float64)  # row after row of a whole tile
        outer = maximum.new_zeros((channels, channels))
        arguments = *numba_noise(noise), maximum, argmax, statistics, total, outer
        launch(_run_forward, self.blas, self.entries, self.layers, *self._at(t), *arguments)
        return (total, outer) if statistics else None

    def sums(self, t: Tile, layer: int) -> Tensor:
        total = torch.zeros((2, self.vectors[layer].shape[1]), dtype=torch.float64)
        chain = self.blas, self.entries, self.layers, self.last
        launch(_run_sums, *chain, *self._at(t), layer, ROWS_PER_BLOCK, total)
        return total

    def gradients(self, t: Tile, gq: Tensor, gp: Tensor, s: Tensor, dweights: Tensor) -> None:
        chain = self.blas, self.entries, self.layers, self.last
        launch(_run_gradients, *chain, *self._at(t), gq, gp, s, dweights)


def choose_chain(source: Source, offset: Tensor | None = None, last: LastGradient | None = None) -> Chain:
    """The chain in one call if that has a product of this type and oneDNN has no faster one; else the passes of `OnCPU`."""
    dtype = source.entries.q.dtype
    onednn = dtype == torch.float32 and wide()
    if not onednn and routine(dtype) and all(w.dtype == dtype for w in source.weights):
        return CompiledChain(source, offset, last)
    return Chain(OnCPU, source, offset, last)
