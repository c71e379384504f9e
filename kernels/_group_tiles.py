"""A shared perceptron on groups, tile by tile: what kernels/group_mlp_max.py makes of the passes of one device.

`passes` is `OnCPU` (kernels/_group_pass.py) or `OnGPU` (kernels/_group_kernels.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels._gemm import gram, mm
from kernels._group_pass import Entries, Tile
from kernels._noise import Drawn
from kernels._norm import merge_moments

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


class Chain:
    """The layers up to the last activation; its z is less by `offset`."""

    def __init__(self, passes: Any, source: Source, offset: Tensor | None = None) -> None:
        self.entries, self.weights, self.vectors, self.slopes = source
        self.passes, self.offset = passes, offset
        self.nothing = [torch.zeros_like(v[0]) for v in self.vectors]
        self.turned = [w.T for w in self.weights]
        width = max([self.entries.q.shape[1], *(w.shape[0] for w in self.weights)])
        self.tiles = tiles(self.entries, passes.tile(width))

    def product(self, z: Tensor, i: int) -> Tensor:
        """z W_i^T in the type of W, as sums."""
        return mm(z.to(self.weights[i].dtype), self.turned[i]).to(z.dtype)

    def forward(self, t: Tile, layers: int) -> tuple[list[Tensor], list[Tensor]]:
        """The y and the z of the first layers; of y, those that a product made."""
        passes, ys, zs = self.passes, [self.entries.q[:0]], []
        for i in range(layers):
            offset = self.nothing[i]
            if i == len(self.vectors) - 1 and self.offset is not None:
                offset = self.offset
            if i == 0:
                zs.append(passes.rows(self.entries, t, self.vectors[0], self.slopes[0], offset))
            else:
                ys.append(self.product(zs[-1], i - 1))
                zs.append(passes.activate(ys[-1], t, self.vectors[i], self.slopes[i], offset))
        return ys, zs

    def last(self, t: Tile) -> tuple[list[Tensor], list[Tensor]]:
        """`forward` through all layers, with the last z as its product sees it."""
        ys, zs = self.forward(t, len(self.weights))
        zs[-1] = zs[-1].to(self.weights[-1].dtype).to(zs[-1].dtype)
        return ys, zs


def moments(passes: Any, source: Source) -> tuple[Tensor, Tensor]:
    """Mean and centred sum of squares of the y that comes after the layers given."""
    chain = Chain(passes, source)
    n, q = len(chain.weights), chain.entries.q
    same = identity(q)

    def work(t: Tile) -> Any:
        if n:
            y = chain.product(chain.forward(t, n)[1][-1], n - 1)
        else:
            y = passes.rows(chain.entries, t, same, 1.0, same[1])
        return passes.moments(y, chain.entries, t)

    found = passes.each(work, chain.tiles)
    if not found:  # as one of several processes may have
        channels = len(chain.weights[-1]) if n else chain.entries.q.shape[1]
        return chain.entries.q.new_zeros(channels), chain.entries.q.new_zeros(channels)
    return merge_moments(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def forward(
    passes: Any, outputs: tuple[Tensor, ...], source: Source, offset: Tensor, wanted: bool, drawn: Drawn
) -> None:
    """Fills the max and its entry [G, C_out], and (if wanted) the sum and the Gram matrix of the last z less `offset`."""
    chain, (top, where, total, outer) = Chain(passes, source, offset), outputs
    top.fill_(-torch.inf)
    where.fill_(-1)

    def work(t: Tile) -> Any:
        z = chain.last(t)[1][-1]
        passes.highest(chain.product(z, -1), chain.entries, t, drawn, top, where)
        return _weighted_gram(z, chain.entries.count[t.start : t.stop]) if wanted else None

    found = passes.each(work, chain.tiles)
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


class Backward:
    """The gradient at the u of a layer, for any tile."""

    def __init__(self, passes: Any, source: Source, given: LastGradient) -> None:
        self.passes, self.given = passes, given
        self.chain = Chain(passes, source, given.offset)
        self.last = source.weights[-1].to(given.offset.dtype)

    def gradient(self, t: Tile, layer: int, dweights: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """`(y, g)` of `layer`; adds to the gradients of the weights, of the last the winners' part."""
        passes, chain, entries, given = self.passes, self.chain, self.chain.entries, self.given
        weights, n = chain.weights, len(chain.weights)
        ys, zs = chain.last(t)
        dense = mm(zs[-1], given.matrix) if given.matrix.numel() else torch.zeros_like(zs[-1])
        at = (given.constant, chain.slopes[-1], given.offset, given.g, given.where, self.last)
        g = passes.last_back(dense, zs[-1], entries, t, *at)
        if dweights is not None:
            passes.collect(zs[-1], entries, t, given.g, given.where, dweights[-1])
        for i in range(n - 1, layer, -1):
            dy = passes.norm_back(g, ys[i], chain.vectors[i], entries, t)
            half = dy.to(weights[i - 1].dtype)
            if dweights is not None:
                dweights[i - 1] += gram(dy, zs[i - 1].to(half.dtype).to(dy.dtype))
            g = passes.mask(mm(half, weights[i - 1]).to(dy.dtype), zs[i - 1], chain.slopes[i - 1])
        return ys[layer], g


def sums(passes: Any, source: Source, given: LastGradient, layer: int) -> Tensor:
    """Sums [2, C] of g and g y_hat of a layer, not the first one."""
    back, vectors = Backward(passes, source, given), source.vectors[layer]

    def work(t: Tile) -> Tensor:
        y, g = back.gradient(t, layer)
        return passes.sums(g, y, t, vectors)

    found = passes.each(work, back.chain.tiles)
    return torch.stack(found).sum(0).to(vectors.dtype) if found else torch.zeros_like(vectors[:2])


def gradients(passes: Any, outputs: tuple[Any, ...], source: Source, given: LastGradient) -> None:
    """Fills the sums over each row's entries of g and p, over each group's of g and q, and the weights' gradients."""
    back, (gq, d, gp, s, dweights) = Backward(passes, source, given), outputs
    for x in (*outputs[:4], *dweights):
        x.zero_()
    found, parts = back.chain.tiles, passes.parts()
    # Each worker has sums of its own, and tiles that depend on nothing but how many workers there are.
    own = [(torch.zeros_like(gq), [torch.zeros_like(w) for w in dweights]) for _ in range(parts - 1)]
    own.insert(0, (gq, dweights))

    def work(part: int) -> None:
        gq, dweights = own[part]
        for t in found[part * len(found) // parts : (part + 1) * len(found) // parts]:
            passes.spread(back.gradient(t, 0, dweights)[1], back.chain.entries, t, gq, gp, s)

    passes.each(work, range(parts))
    for more_gq, more_dweights in own[1:]:
        gq += more_gq
        for w, more in zip(dweights, more_dweights, strict=True):
            w += more
    passes.spread_groups(back.chain.entries, d)


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
    one = torch.ones_like(q[0])
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
