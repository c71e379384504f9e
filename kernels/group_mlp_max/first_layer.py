"""BatchNorm of group_mlp_max's first layer, whose gradient follows from sums over the entries of each row and each group."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROWS_PER_PIECE = 1 << 14  # of q or p: what is made in between stays in the cache


def identity(q: Tensor) -> Tensor:
    """The vectors of no normalisation."""
    one = q.new_ones(q.shape[1])
    return torch.stack([one, 0 * one, 0 * one, one])


def count_entries(rows: Tensor, count: Tensor, like: Tensor) -> Tensor:
    """How many entries each row of `like` has, [.., 1], weighted."""
    one = count if count.shape == rows.shape else like.new_ones(1).expand(rows.shape[0])
    return torch.zeros_like(like[:, 0]).index_add_(0, rows, one)[:, None]


def _pieces(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in pieces of the same rows; on a GPU, which has no cache to keep to, whole."""
    return zip(*(x.split(ROWS_PER_PIECE if x.is_cpu else max(1, len(x))) for x in rows), strict=True)


def first_sums(q: Tensor, p: Tensor, gq: Tensor, gp: Tensor, vectors: Tensor) -> Tensor:
    """Sums of g and of g y_hat over the entries, from those of each row and each group, q and p about means of their own."""
    mean_p = p.mean(0) if len(p) else vectors[2]
    plain, y_hats = vectors.new_zeros((2, q.shape[1]), dtype=torch.float64)
    for g, own, about in ((gq, q, vectors[2] - mean_p), (gp, p, mean_p)):
        for some, rows in _pieces(g, own):
            y_hats += (some * (rows - about)).sum(0, dtype=torch.float64)
    for (some,) in _pieces(gq):
        plain += some.sum(0, dtype=torch.float64)
    return torch.stack([plain, y_hats * vectors[3]]).to(q.dtype)


def first_gradient(
    g: Tensor, others: Tensor, own: Tensor, counts: Tensor, vectors: Tensor, c1: Tensor, c2: Tensor
) -> Tensor:
    """BatchNorm's gradient at q (or p), from the sums of g and of p (or q) over each row's entries; written over g."""
    scale, _, mean, rstd = vectors[:4]
    for dy, other, rows, n in _pieces(g, others, own, counts):
        dy -= n * c1 + c2 * rstd * (other + n * (rows - mean))
        dy *= scale
    return g
