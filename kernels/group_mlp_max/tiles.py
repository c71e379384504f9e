"""A shared perceptron on groups, tile by tile: what kernels/group_mlp_max/operation.py makes of the passes of one device.

The passes are `OnCPU` (cpu_passes.py) or `OnGPU` (triton_passes.py). On a CPU a tile's chain is mostly one
compiled call instead (compiled_chain.py), with the same methods.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import gram, mm
from dropfold.kernels.group_mlp_max.entries import Entries, Tile
from dropfold.kernels.noise.draw.drawn import Drawn
from dropfold.kernels.norm.batch_norm.operation import merge_moments

PIECE = 1 << 14  # rows of q or p at a time: what is made between stays in the cache


class Source(NamedTuple):
    """The entries and the layers up to the last activation, counted from 0: `weights[i]` takes z of layer i to y of layer
    i + 1, `vectors[i]` and `slopes[i]` are of its BatchNorm and activation."""

    entries: Entries
    weights: list[Tensor]
    vectors: list[Tensor]
    slopes: list[float]


class LastGradient(NamedTuple):
    """The gradient that backward begins with, at the last z less `offset`: z `matrix` + `constant` of every entry, and g of
    each maximum at its entry `where`."""

    matrix: Tensor
    constant: Tensor
    offset: Tensor
    g: Tensor
    where: Tensor


def tiles(entries: Entries, size: int) -> list[Tile]:
    """Whole groups of at most `size` entries together, or a larger one alone."""
    groups, total = entries.ptr.shape[0] - 1, entries.idx.shape[0]
    if total <= size:
        return [Tile(0, groups, 0, total)] if total else []
    ptr = entries.ptr.tolist()
    found, first = [], 0
    while first < groups:
        last = max(first + 1, bisect_right(ptr, ptr[first] + size) - 1)
        found.append(Tile(first, last, ptr[first], ptr[last]))
        first = last
    return [t for t in found if t.start < t.stop]


def pack(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """The tensors' numbers one after another, in the type of `like`."""
    return torch.cat([like.new_empty(0), *(t.to(like.dtype).flatten() for t in tensors)])


class Chain:
    """The layers up to the last activation, whose z is less by `offset`, and what is made of it for a tile: products by
    `torch`, the rest by the passes of a device."""

    def __init__(
        self, passes: Any, source: Source, offset: Tensor | None = None, given: LastGradient | None = None
    ) -> None:
        self.entries, self.weights, self.vectors, self.slopes = source
        self.passes, self.given = passes, given
        self.offset = offset if given is None else given.offset
        self.nothing = [torch.zeros_like(v[0]) for v in self.vectors]
        self.turned = [w.T for w in self.weights]
        width = max([self.entries.q.shape[1], *(w.shape[0] for w in self.weights)])
        self.tiles = tiles(self.entries, self.tile(width))

    def tile(self, width: int) -> int:
        """Entries of a tile that has `width` channels at its widest."""
        return self.passes.tile(width)

    def _product(self, z: Tensor, i: int) -> Tensor:
        """z W_i^T in the type of W, as sums."""
        return mm(z.to(self.weights[i].dtype), self.turned[i]).to(z.dtype)

    def _layers(self, t: Tile) -> tuple[list[Tensor], list[Tensor]]:
        """The y and the z of all layers; of y, those that a product made."""
        passes, ys, zs = self.passes, [self.entries.q[:0]], []
        for i in range(len(self.weights)):
            offset = self.nothing[i]
            if i == len(self.vectors) - 1 and self.offset is not None:
                offset = self.offset
            if i == 0:
                zs.append(passes.rows(self.entries, t, self.vectors[0], self.slopes[0], offset))
            else:
                ys.append(self._product(zs[-1], i - 1))
                zs.append(passes.activate(ys[-1], t, self.vectors[i], self.slopes[i], offset))
        return ys, zs

    def _last(self, t: Tile) -> tuple[list[Tensor], list[Tensor]]:
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
        self, t: Tile, drawn: Drawn, top: Tensor, where: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Fills the max of the tile's groups and its entry; the sum and the Gram matrix of the last z if wanted."""
        z = self._last(t)[1][-1]
        self.passes.highest(self._product(z, -1), self.entries, t, drawn, top, where)
        return _weighted_gram(z, self.entries.count[t.start : t.stop]) if wanted else None

    def _gradient(self, t: Tile, layer: int, dweights: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """`(y, g)` of `layer`; adds to the gradients of the weights, of the last the winners' part."""
        passes, entries, given, weights = self.passes, self.entries, self.given, self.weights
        assert given is not None
        ys, zs = self._last(t)
        dense = mm(zs[-1], given.matrix) if given.matrix.numel() else torch.zeros_like(zs[-1])
        last = weights[-1].to(given.offset.dtype)
        at = (given.constant, self.slopes[-1], given.offset, given.g, given.where, last)
        g = passes.last_back(dense, zs[-1], entries, t, *at)
        if dweights is not None:
            passes.collect(zs[-1], entries, t, given.g, given.where, dweights[-1])
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


def moments(chain: Chain) -> tuple[Tensor, Tensor]:
    """Mean and centred sum of squares of the y that comes after the layers given."""
    found = chain.passes.each(chain.moments, chain.tiles)
    if not found:  # as one of several processes may have
        q = chain.entries.q
        channels = len(chain.weights[-1]) if chain.weights else q.shape[1]
        return q.new_zeros(channels), q.new_zeros(channels)
    return merge_moments(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def forward(chain: Chain, outputs: tuple[Tensor, ...], wanted: bool, drawn: Drawn) -> None:
    """Fills the max and its entry [G, C_out], and (if wanted) the sum and the Gram matrix of the last z less `offset`."""
    top, where, total, outer = outputs
    top.fill_(-torch.inf)
    where.fill_(-1)
    found = chain.passes.each(lambda t: chain.highest(t, drawn, top, where, wanted), chain.tiles)
    if wanted and not found:
        total.zero_()
        outer.zero_()
    elif wanted:
        for held, parts in zip((total, outer), zip(*found, strict=True), strict=True):
            held.copy_(torch.stack(parts).sum(0, dtype=torch.float64))


def _weighted_gram(z: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the rows and of their outer products, weighed; most counts are 1."""
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
    found = chain.passes.each(lambda t: chain.sums(t, layer), chain.tiles)
    return torch.stack(found).sum(0).to(vectors.dtype) if found else torch.zeros_like(vectors[:2])


def gradients(chain: Chain, outputs: tuple[Any, ...]) -> None:
    """Fills the sums over each row's entries of g and p, over each group's of g and q, and the weights' gradients."""
    (gq, d, gp, s, dweights), passes = outputs, chain.passes
    for x in outputs[:4]:
        x.zero_()
    found, parts = chain.tiles, passes.parts()
    # Each worker has sums of its own, and tiles that depend on nothing but how many workers there are.
    packed = gq.new_zeros((parts, sum(w.numel() for w in dweights)))
    own = [gq, *(torch.zeros_like(gq) for _ in range(parts - 1))]

    def work(part: int) -> None:
        for t in found[part * len(found) // parts : (part + 1) * len(found) // parts]:
            chain.gradients(t, own[part], gp, s, packed[part])

    passes.each(work, range(parts))
    for more in own[1:]:
        gq += more
    for w, total in zip(dweights, chain.unpack(packed[0] if parts == 1 else packed.sum(0)), strict=True):
        w.copy_(total)
    passes.spread_groups(chain.entries, d)


# --- small things around the passes, on vectors, rows of q and rows of p ------------------------------------------


def gaussian_mean(gamma: Tensor, beta: Tensor, slope: float) -> Tensor:
    """The mean of a(u) for u of mean beta and standard deviation |gamma|."""
    sigma = gamma.abs()
    r = beta / (sigma + torch.finfo(sigma.dtype).tiny)
    density = torch.exp(-r * r / 2) / math.sqrt(2 * math.pi)
    positive = beta * torch.special.ndtr(r) + sigma * density
    return slope * beta + (1 - slope) * positive


def identity(q: Tensor) -> Tensor:
    """The vectors of no normalisation."""
    one = q.new_ones(q.shape[1])
    return torch.stack([one, 0 * one, 0 * one, one])


def times(rows: Tensor, count: Tensor, like: Tensor) -> Tensor:
    """How many entries each row of `like` has, [.., 1], weighed."""
    one = count if count.numel() else like.new_ones(1).expand(rows.shape[0])
    return torch.zeros_like(like[:, 0]).index_add_(0, rows, one)[:, None]


def _pieces(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in pieces of the same rows; on a GPU, which has no cache to keep to, whole."""
    return zip(*(x.split(PIECE if x.is_cpu else max(1, len(x))) for x in rows), strict=True)


def first_sums(q: Tensor, p: Tensor, gq: Tensor, gp: Tensor, vectors: Tensor) -> Tensor:
    """Sums of g and of g y_hat over the entries, from those of each row and each group; each about a middle of its own."""
    middle = p.mean(0) if len(p) else vectors[2]
    plain, hats = vectors.new_zeros((2, q.shape[1]), dtype=torch.float64)
    for g, own, about in ((gq, q, vectors[2] - middle), (gp, p, middle)):
        for some, rows in _pieces(g, own):
            hats += (some * (rows - about)).sum(0, dtype=torch.float64)
    for (some,) in _pieces(gq):
        plain += some.sum(0, dtype=torch.float64)
    return torch.stack([plain, hats * vectors[3]]).to(q.dtype)


def first_gradient(
    g: Tensor, others: Tensor, own: Tensor, times: Tensor, vectors: Tensor, c1: Tensor, c2: Tensor
) -> Tensor:
    """BatchNorm's gradient at q (or p), from the sums of g and of p (or q) over each row's entries; written over g."""
    scale, _, mean, rstd = vectors[:4]
    for dy, other, rows, n in _pieces(g, others, own, times):
        dy -= n * c1 + c2 * rstd * (other + n * (rows - mean))
        dy *= scale
    return g
