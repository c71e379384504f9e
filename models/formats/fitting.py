"""Singular value decompositions of unfoldings, and what the formats' `from_dense` share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Any)


def as_tensor(weight: Tensor, in_modes: Sequence[int], out_modes: Sequence[int]) -> Tensor:
    """W [M, N] as the tensor [m_1, .., n_1, ..]."""
    shape = [math.prod(in_modes), math.prod(out_modes)]
    if list(weight.shape) != shape:
        raise ValueError(f"weight must be {shape}; got {list(weight.shape)}.")
    return weight.detach().reshape(*in_modes, *out_modes)


def interleave(weight: Tensor, in_modes: Sequence[int], out_modes: Sequence[int]) -> Tensor:
    """W [M, N] as the tensor [m_1 n_1, m_2 n_2, ..] of as many input as output modes."""
    d = len(in_modes)
    order = [k for pair in zip(range(d), range(d, 2 * d)) for k in pair]
    pairs = [m * n for m, n in zip(in_modes, out_modes, strict=True)]
    return as_tensor(weight, in_modes, out_modes).permute(order).reshape(pairs)


def one_of(ranks: object, eps: float | None) -> None:
    """Refuse neither and both of ranks and eps, and an eps that no error is within."""
    if (ranks is None) == (eps is None):
        raise ValueError(f"give either ranks or eps; got ranks {ranks} and eps {eps}.")
    if eps is not None and not eps >= 0:
        raise ValueError(f"eps is a part of |W|, 0 or more; got {eps}.")


def truncated_svd(matrix: Tensor, rank: int | None, delta: float | None) -> tuple[Tensor, Tensor]:
    """`(U [a, r], U^T matrix [r, b])`: r is `rank`, or the least with what is cut off at most `delta` in norm.

    A rank beyond what the matrix has is filled with zero columns, so that shapes are those asked for.
    """
    u, s = left_singular(matrix)
    if rank is None:
        assert delta is not None, "give rank or eps"
        tail = s.square().flip(0).cumsum(0).flip(0).sqrt()
        rank = max(1, int((tail > delta).sum()))
    kept = u[:, :rank]
    if kept.shape[1] < rank:
        kept = torch.cat([kept, kept.new_zeros(kept.shape[0], rank - kept.shape[1])], 1)
    return kept, kept.T @ matrix


def left_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values. A wide matrix goes through a QR, which, unlike the eigenvectors of
    matrix matrix^T, keeps all digits."""
    if matrix.shape[1] > matrix.shape[0]:
        matrix = torch.linalg.qr(matrix.T, mode="r").R.T
    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    return u, s


def orthonormal(matrix: Tensor) -> Tensor:
    """The columns of a tall matrix made orthonormal; of a wide one the first, the others are 0."""
    q = torch.linalg.qr(matrix).Q
    return torch.cat([q, q.new_zeros(q.shape[0], matrix.shape[1] - q.shape[1])], 1)


def warn_wasteful(format_: str, where: str, rank: int, largest: int) -> None:
    """Say that a rank buys nothing, and which one does."""
    if rank > largest:
        warnings.warn(
            f"{format_}: rank {rank} at {where} is more than its neighbours can use; the largest useful one is {largest}.",
            stacklevel=4,
        )


def grown(
    make: Callable[[Any], F],
    weight: Tensor,
    ranks: int | Sequence[int] | None,
    eps: float | None,
    starts: int = 3,
) -> F:
    """The best of some random starts of alternating least squares, at `ranks`, or at 1, 2, 4, .. until within eps."""
    one_of(ranks, eps)

    def best(rank: int | Sequence[int]) -> F:
        found = [make(rank).to(weight).fit(weight) for _ in range(starts)]
        return min(found, key=lambda f: f.error)

    if ranks is not None:
        return best(ranks)
    rank, last = 1, best(1)
    while last.error > eps:
        rank *= 2
        if make(rank).parameters_count() > weight.numel():
            raise ValueError(
                f"eps {eps} is not reached with fewer parameters than the matrix has ({weight.numel()}); the closest was "
                f"{last.error:.3g} at rank {rank // 2}."
            )
        last = best(rank)
    return last
