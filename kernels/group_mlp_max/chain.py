"""A shared perceptron on groups, tile by tile: the operators of a device, made of its passes and of matrix products.

The passes are `OnCPU` (cpu_passes.py) or `OnGPU` (triton_passes.py). On a CPU a tile's chain is mostly one compiled call
instead (compiled_chain.py), with the same methods.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import gram, mm
from dropfold.kernels.group_mlp_max.entries import Entries, LastGradient, Source, Tile, take_source
from dropfold.kernels.group_mlp_max.first_layer import identity
from dropfold.kernels.group_mlp_max.operators import empty_forward, empty_gradients
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.norm.batch_norm.operation import merge_moments


def cut_tiles(entries: Entries, size: int) -> list[Tile]:
    """Whole groups of at most `size` entries together, or a larger one alone."""
    groups, total = entries.ptr.shape[0] - 1, entries.idx.shape[0]
    if total <= size:
        return [Tile(0, groups, 0, total)] if total else []
    ptr = entries.ptr.tolist()
    tiles, first = [], 0
    while first < groups:
        last = max(first + 1, bisect_right(ptr, ptr[first] + size) - 1)
        tiles.append(Tile(first, last, ptr[first], ptr[last]))
        first = last
    return [t for t in tiles if t.start < t.stop]


def pack(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """The tensors' numbers one after another, in the type of `like`."""
    return torch.cat([like.new_empty(0), *(t.to(like.dtype).flatten() for t in tensors)])


class Chain:
    """The layers up to the last activation, whose z is less by `offset`, computed for one tile: products by torch, the rest
    by the passes of a device."""

    def __init__(
        self, passes: Any, source: Source, offset: Tensor | None = None, last: LastGradient | None = None
    ) -> None:
        self.entries, self.weights, self.vectors, self.slopes = source
        self.passes, self.last = passes, last
        self.offset = offset if last is None else last.offset
        self.no_offset = [torch.zeros_like(v[0]) for v in self.vectors]
        self.transposed = [w.T for w in self.weights]
        width = max([self.entries.q.shape[1], *(w.shape[0] for w in self.weights)])
        self.tiles = cut_tiles(self.entries, self.tile(width))

    def tile(self, width: int) -> int:
        """Entries of a tile that has `width` channels at its widest."""
        return self.passes.tile(width)

    def _product(self, z: Tensor, i: int) -> Tensor:
        """z W_i^T in the type of W, as sums."""
        return mm(z.to(self.weights[i].dtype), self.transposed[i]).to(z.dtype)

    def _layers(self, t: Tile) -> tuple[list[Tensor], list[Tensor]]:
        """The y and the z of all layers; of y, those that a product made."""
        passes, ys, zs = self.passes, [self.entries.q[:0]], []
        for i in range(len(self.weights)):
            offset = self.no_offset[i]
            if i == len(self.vectors) - 1 and self.offset is not None:
                offset = self.offset
            if i == 0:
                zs.append(passes.rows(self.entries, t, self.vectors[0], self.slopes[0], offset))
            else:
                ys.append(self._product(zs[-1], i - 1))
                zs.append(passes.activate(ys[-1], t, self.vectors[i], self.slopes[i], offset))
        return ys, zs

    def _rounded_layers(self, t: Tile) -> tuple[list[Tensor], list[Tensor]]:
        """`_layers`, with the last z as its product sees it."""
        ys, zs = self._layers(t)
        zs[-1] = zs[-1].to(self.weights[-1].dtype).to(zs[-1].dtype)
        return ys, zs

    def moments(self, t: Tile) -> tuple[Tensor, ...]:
        """Means, centred sums of squares and weights of blocks of the y after the last product."""
        if self.weights:
            y = self._product(self._layers(t)[1][-1], -1)
        else:
            same = identity(self.entries.q)
            y = self.passes.rows(self.entries, t, same, 1.0, same[1])
        return self.passes.moments(y, self.entries, t)

    def highest(
        self, t: Tile, noise: NoiseArguments, maximum: Tensor, argmax: Tensor, statistics: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Fills the max of the tile's groups and its entry; with statistics returns sum and Gram matrix of the last z."""
        z = self._rounded_layers(t)[1][-1]
        self.passes.highest(self._product(z, -1), self.entries, t, noise, maximum, argmax)
        return _weighted_gram(z, self.entries.count[t.start : t.stop]) if statistics else None

    def _gradient(self, t: Tile, layer: int, dweights: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """`(y, g)` of `layer`; adds to the gradients of the weights, to the last one's what the maxima have."""
        passes, entries, last, weights = self.passes, self.entries, self.last, self.weights
        assert last is not None
        ys, zs = self._rounded_layers(t)
        dense = mm(zs[-1], last.matrix) if last.matrix.numel() else torch.zeros_like(zs[-1])
        weight = weights[-1].to(last.offset.dtype)
        at_max = (last.constant, self.slopes[-1], last.offset, last.g, last.argmax, weight)
        g = passes.last_back(dense, zs[-1], entries, t, *at_max)
        if dweights is not None:
            passes.collect(zs[-1], entries, t, last.g, last.argmax, dweights[-1])
        for i in range(len(weights) - 1, layer, -1):
            dy = passes.norm_back(g, ys[i], self.vectors[i], entries, t)
            half = dy.to(weights[i - 1].dtype)
            if dweights is not None:
                dweights[i - 1] += gram(dy, zs[i - 1].to(half.dtype).to(dy.dtype))
            g = passes.mask(mm(half, weights[i - 1]).to(dy.dtype), zs[i - 1], self.slopes[i - 1])
        return ys[layer], g

    def sums(self, t: Tile, layer: int) -> Tensor:
        """Sums [2, C] of g and g y_hat of a layer, not the first one."""
        y, g = self._gradient(t, layer)
        return self.passes.sums(g, y, t, self.vectors[layer])

    def gradients(self, t: Tile, gq: Tensor, gp: Tensor, s: Tensor, dweights: Tensor) -> None:
        """Adds to the sums of each row and each group, and to the gradients of the weights, one after another."""
        g = self._gradient(t, 0, self.unpack(dweights))[1]
        self.passes.spread(g, self.entries, t, gq, gp, s)

    def unpack(self, dweights: Tensor) -> list[Tensor]:
        """Each weight's part of `dweights`."""
        parts = dweights.split([w.numel() for w in self.weights])
        return [part.view(w.shape) for part, w in zip(parts, self.weights, strict=True)]


def operators_on(make_chain: Callable[..., Chain]) -> list[Callable[..., Any]]:
    """The four operators of one device: the same tiles, its chain."""

    def group_mlp_max_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
        return moments(make_chain(take_source(arguments)[0]))

    def group_mlp_max_fwd(*arguments: Any) -> tuple[Tensor, ...]:
        source, (offset, statistics, *noise) = take_source(arguments)
        outputs = empty_forward(*arguments)
        forward(make_chain(source, offset), outputs, statistics, NoiseArguments(*noise))
        return outputs

    def group_mlp_max_sums(*arguments: Any) -> Tensor:
        source, (*last, layer) = take_source(arguments)
        return sums(make_chain(source, last=LastGradient(*last)), layer)

    def group_mlp_max_bwd(*arguments: Any) -> Any:
        source, last = take_source(arguments)
        outputs = empty_gradients(*arguments)
        gradients(make_chain(source, last=LastGradient(*last)), outputs)
        return outputs

    return [group_mlp_max_moments, group_mlp_max_fwd, group_mlp_max_sums, group_mlp_max_bwd]


def moments(chain: Chain) -> tuple[Tensor, Tensor]:
    """Mean and centred sum of squares of the y after the last weight."""
    of_tiles = chain.passes.each(chain.moments, chain.tiles)
    if not of_tiles:  # this rank holds no groups
        q = chain.entries.q
        channels = len(chain.weights[-1]) if chain.weights else q.shape[1]
        return q.new_zeros(channels), q.new_zeros(channels)
    return merge_moments(*(torch.cat(parts) for parts in zip(*of_tiles, strict=True)))


def forward(chain: Chain, outputs: tuple[Tensor, ...], statistics: bool, noise: NoiseArguments) -> None:
    """Fills the max and its entry [G, C_out], and with statistics the sum and Gram matrix of the last z less `offset`."""
    maximum, argmax, total, outer = outputs
    maximum.fill_(-torch.inf)
    argmax.fill_(-1)
    of_tiles = chain.passes.each(lambda t: chain.highest(t, noise, maximum, argmax, statistics), chain.tiles)
    if statistics and not of_tiles:
        total.zero_()
        outer.zero_()
    elif statistics:
        for output, parts in zip((total, outer), zip(*of_tiles, strict=True), strict=True):
            output.copy_(torch.stack(parts).sum(0, dtype=torch.float64))


def _weighted_gram(z: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the rows and of their outer products, weighted; most counts are 1."""
    total, outer = z.sum(0), gram(z, z)
    if not count.numel():
        return total, outer
    if z.is_cuda:  # which rows are copied, the host need not know
        return count @ z, gram(count[:, None] * z, z)
    copied = (count != 1).nonzero()[:, 0]
    rows, more = z[copied], (count[copied] - 1)[:, None]
    return total + (more * rows).sum(0), outer + (more * rows).T @ rows


def sums(chain: Chain, layer: int) -> Tensor:
    """Sums [2, C] of g and g y_hat of a layer, not the first one."""
    vectors = chain.vectors[layer]
    of_tiles = chain.passes.each(lambda t: chain.sums(t, layer), chain.tiles)
    return torch.stack(of_tiles).sum(0).to(vectors.dtype) if of_tiles else torch.zeros_like(vectors[:2])


def gradients(chain: Chain, outputs: tuple[Any, ...]) -> None:
    """Fills the sums over each row's entries of g and p, over each group's of g and q, and the weights' gradients."""
    (gq, d, gp, s, dweights), passes = outputs, chain.passes
    for x in outputs[:4]:
        x.zero_()
    tiles, parts = chain.tiles, passes.parts()
    # Each worker has sums of its own, and tiles that depend on nothing but how many workers there are.
    packed = gq.new_zeros((parts, sum(w.numel() for w in dweights)))
    own = [gq, *(torch.zeros_like(gq) for _ in range(parts - 1))]

    def work(part: int) -> None:
        for t in tiles[part * len(tiles) // parts : (part + 1) * len(tiles) // parts]:
            chain.gradients(t, own[part], gp, s, packed[part])

    passes.each(work, range(parts))
    for more in own[1:]:
        gq += more
    for w, total in zip(dweights, chain.unpack(packed[0] if parts == 1 else packed.sum(0)), strict=True):
        w.copy_(total)
    passes.spread_groups(chain.entries, d)
