"""Multi-step heuristic compression of a layer (Li et al. 2021, "Towards Compact CNNs via Collaborative Compression").

Units are the layer's channels and its matrices' singular values. With W the weights, A those that are left, X_u what unit u
is of A (its columns; s u v^T) and D = A - W, the loss of information is L = sum g^2 D^2. Each step removes the units of the
least

    L(A - X_u)  +  gamma E_v [ L(A - X_u - X_v) ]

v another unit drawn at random. As the channels' X_v add up to the columns that may go, and the singular values' to A, the
mean over v has a closed form (`metrics`).

One decomposition a step serves all of its candidates. The paper's code makes one for each channel; here what a channel's
removal does to the squares of the singular parts is taken from the parts as they are (its columns go from them).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dropfold.compress.methods.collaborative.layers import Layer, Matrix

GAMMA, STEP = 0.9, 0.01  # as published


class State(NamedTuple):
    """What is left of a layer: its channels [channels] bool, the rank of each matrix, and their weights A."""

    kept: Tensor
    ranks: list[int]
    now: list[Tensor]


class Parts(NamedTuple):
    """The singular parts of a matrix, largest first: A = sum of s u v^T."""

    u: Tensor
    s: Tensor
    v: Tensor


def whole(layer: Layer) -> State:
    """All of a layer."""
    ranks = [min(matrix.weight.shape) for matrix in layer.matrices]
    return State(
        torch.ones(layer.channels, dtype=torch.bool), ranks, [m.weight.clone() for m in layer.matrices]
    )


def information_loss(layer: Layer, now: list[Tensor]) -> float:
    """sum g^2 (A - W)^2 over the matrices."""
    return float(
        sum((m.energy * (a - m.weight).square()).sum() for m, a in zip(layer.matrices, now, strict=True))
    )


def singular_parts(a: Tensor, rank: int) -> Parts:
    """The first `rank` singular parts, from the eigenvectors of the smaller product of A with itself."""
    if not rank:
        return Parts(a.new_zeros(len(a), 0), a.new_zeros(0), a.new_zeros(a.shape[1], 0))
    left = (a != 0).any(0)
    if not left.all():  # columns that went
        u, s, v = singular_parts(a[:, left], min(rank, int(left.sum())))
        return Parts(u, s, a.new_zeros(a.shape[1], v.shape[1]).index_copy_(0, left.nonzero().flatten(), v))
    tall = a.shape[0] > a.shape[1]
    square = a.T @ a if tall else a @ a.T
    try:
        values, vectors = torch.linalg.eigh(square)
    except RuntimeError:  # does not converge where many eigenvalues are 0
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        return Parts(u[:, :rank], s[:rank], vh[:rank].T)
    s = values.flip(0)[:rank].clamp(min=0).sqrt()
    side = vectors.flip(1)[:, :rank]
    other = (a if tall else a.T) @ side / s.clamp(min=torch.finfo(a.dtype).tiny)
    other = torch.where(s > 1e-7 * s[0].clamp(min=torch.finfo(a.dtype).tiny), other, 0.0)
    return Parts(other, s, side) if tall else Parts(side, s, other)


def units_left(layer: Layer, state: State) -> int:
    """How many channels and singular values there are."""
    ranks = sum(rank for matrix, rank in zip(layer.matrices, state.ranks, strict=True) if matrix.ranked)
    return int(state.kept.sum()) + ranks


def metrics(
    layer: Layer, state: State, parts: list[Parts], gamma: float = GAMMA
) -> tuple[Tensor, list[Tensor]]:
    """What the removal of each unit costs, its expected successor included: [channels], infinite for those that are gone,
    and [rank] of each matrix."""
    others = max(1, units_left(layer, state) - 1)
    of_channels = torch.zeros(layer.channels, dtype=torch.float64)
    of_values: list[Tensor] = []
    base = torch.zeros((), dtype=torch.float64)
    for matrix, a, part in zip(layer.matrices, state.now, parts, strict=True):
        base = base + _add_matrix(matrix, a, part, others, gamma, of_channels, of_values)
    # Each candidate's figure is that of its own matrices; the others of the layer stay as they are, at `base` in sum.
    of_channels = (of_channels + base).masked_fill(~state.kept, torch.inf)
    return of_channels, [values + base for values in of_values]


def _add_matrix(
    matrix: Matrix,
    a: Tensor,
    part: Parts,
    others: int,
    gamma: float,
    of_channels: Tensor,
    of_values: list[Tensor],
) -> Tensor:
    """Adds what changes in one matrix with each unit, and returns what it is without a change."""
    g, (u, s, v) = matrix.energy, part
    d, free = a - matrix.weight, (matrix.channel >= 0).to(g)
    values = 1.0 if matrix.ranked else 0.0  # whether its singular values are units
    # Sums over a column of what the figure is made of: L, the sums of D X_v and of X_v^2 over all units v.
    loss = (g * d.square()).sum(0)
    cross = (g * d * a).sum(0) * (free + values)
    squares = (g * a.square()).sum(0) * free
    if matrix.ranked:
        squares = squares + (g * ((u * s).square() @ v.square().T)).sum(0)

    def figure(loss: Tensor, cross: Tensor, squares: Tensor) -> Tensor:
        return loss + gamma * (loss + (squares - 2 * cross) / others)

    base = figure(loss.sum(), cross.sum(), squares.sum())
    if bool((matrix.channel >= 0).any()):  # a column that goes: D = -W, X = 0
        bare = (g * matrix.weight.square()).sum(0)
        change = figure(bare - loss, -cross, -squares)
        where = matrix.channel >= 0
        of_channels.index_add_(0, matrix.channel[where], change[where])
    if not matrix.ranked:
        of_values.append(torch.zeros(0, dtype=torch.float64))
        return base
    # A singular part X = s u v^T that goes: D - X, A - X.
    gd = s * torch.einsum("nk,nk->k", u, (g * d) @ v)
    gx = s.square() * torch.einsum("nk,nk->k", u.square(), g @ v.square())
    ga = s * torch.einsum("nk,nk->k", u, (g * a) @ v)
    d_free = s * torch.einsum("nk,nk->k", u, (g * d * free) @ v)
    a_free = s * torch.einsum("nk,nk->k", u, (g * a * free) @ v)
    x_free = s.square() * torch.einsum("nk,nk->k", u.square(), (g * free) @ v.square())
    cross_change = -(gd + ga - gx) - (d_free + a_free - x_free)
    squares_change = -2 * a_free + x_free - gx
    of_values.append(figure(gx - 2 * gd, cross_change, squares_change))
    return base


def path(layer: Layer, gamma: float = GAMMA, step: float = STEP) -> list[tuple[Tensor, list[int]]]:
    """(kept channels [channels] bool, rank of each matrix) after each step, from the whole layer to one unit of each kind.

    A step removes so large a part of all units, one at least.
    """
    state = whole(layer)
    count = max(1, int(step * units_left(layer, state)))
    found = [(state.kept.clone(), list(state.ranks))]
    while True:
        parts = _parts(layer, state)
        of_channels, of_values = metrics(layer, state, parts, gamma)
        kept, gone = state.kept.clone(), [torch.zeros(len(values), dtype=torch.bool) for values in of_values]
        starts = torch.tensor([0, layer.channels, *(len(values) for values in of_values)]).cumsum(0)
        order = torch.cat([of_channels, *of_values])
        removed = 0
        for unit in order.argsort(stable=True).tolist():
            if removed == count or not order[unit].isfinite():
                break
            which = int((starts[1:] <= unit).sum())
            if which == 0:
                removed += _take_channel(layer, kept, unit)
            elif int((~gone[which - 1]).sum()) > 1:
                gone[which - 1][unit - int(starts[which])] = True
                removed += 1
        if not removed:
            return found
        state = _after(layer, state, parts, kept, gone)
        found.append((state.kept.clone(), list(state.ranks)))


def _parts(layer: Layer, state: State) -> list[Parts]:
    """The singular parts of the matrices that have them as units."""
    return [
        singular_parts(a, rank if matrix.ranked else 0)
        for matrix, a, rank in zip(layer.matrices, state.now, state.ranks, strict=True)
    ]


def _take_channel(layer: Layer, kept: Tensor, channel: int) -> int:
    """Take a channel unless it is the last one of its group; how many were taken."""
    for part in kept.split(list(layer.groups.values())):
        if channel < len(part):
            if int(part.sum()) == 1:
                return 0
            part[channel] = False  # a view of `kept`
            return 1
        channel -= len(part)
    return 0


def _after(layer: Layer, state: State, parts: list[Parts], kept: Tensor, gone: list[Tensor]) -> State:
    """The layer without some units."""
    now, ranks = [], []
    for matrix, a, (u, s, v), out in zip(layer.matrices, state.now, parts, gone, strict=True):
        if matrix.ranked and bool(out.any()):
            a = (u * s * ~out) @ v.T
        column = (matrix.channel < 0) | kept[matrix.channel.clamp(min=0)] if layer.channels else None
        a = a if column is None else a * column
        left = min(int((~out).sum()) if matrix.ranked else min(a.shape), len(a))
        ranks.append(max(1, left if column is None else min(left, int(column.sum()))))
        now.append(a)
    return State(kept, ranks, now)
