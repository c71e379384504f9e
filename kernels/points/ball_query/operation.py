r"""Points within a radius of centres, as groups in CSR form.

    group g = the first k rows j, in index order, of g's cloud with |x_j - c_g|^2 <= radius^2

A point is outside if its squared distance, a sum of squared differences in float32 (float64 for float64 points), is
larger than radius^2 rounded to the same type. The padded form that is usual elsewhere, [G, k], repeats the first entry
in a group of n < k points; here that entry's `count` is k - n + 1, all others' is 1, and `Groups.padded(k)` gives the
padded form. A ball that holds no point takes the nearest one (of equally near ones the smaller index), with count k.
There is no gradient: the choice is discrete.

Source: PointNet++ (Qi et al. 2017, section 3.2); the padding is that of its public implementations.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.inputs import check_has_numbers
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.points.distances import squared_distances
from dropfold.kernels.points.groups import Groups
from dropfold.kernels.points.positions import positions_of_both


@torch.no_grad()
def reference(
    x: Tensor,
    centres: Tensor,
    radius: float,
    k: int,
    *,
    batch: Tensor | None = None,
    centres_batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Groups:
    """`ball_query` in plain torch, for any type and device: all distances of a cloud. The specification of `ball_query`."""
    rows, ptr, others, others_ptr = positions_of_both(
        ("x", "centres"), x, centres, batch, centres_batch, batch_size
    )
    masks = others.new_zeros((len(others), len(rows)), dtype=torch.bool)
    for (start, stop), (first, last) in zip(pairwise(ptr.tolist()), pairwise(others_ptr.tolist())):
        d = squared_distances(others[first:last], rows[start:stop])
        mask = d <= squared_radius(radius, d.dtype)
        if stop > start:
            nearest = torch.zeros_like(mask).scatter_(1, d.argmin(1, keepdim=True), True)
            mask = torch.where(mask.any(1, keepdim=True), mask, nearest)
        masks[first:last, start:stop] = mask & (mask.cumsum(1) <= k)
    size = masks.sum(1)
    group, idx = masks.nonzero(as_tuple=True)
    offsets = torch.nn.functional.pad(size.cumsum(0), (1, 0))
    is_first = torch.arange(len(idx), device=x.device) == offsets[group]
    return Groups(offsets, idx, torch.where(is_first, k - size[group] + 1, 1))


def squared_radius(radius: float, dtype: torch.dtype) -> float:
    """The largest squared distance of a point inside, rounded as squared distances are."""
    return float(torch.tensor(radius * radius, dtype=dtype))


def _empty_groups(x: Tensor, ptr: Tensor, centres: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of the right shapes; how many entries there are is known when the operator runs."""
    entries = torch.library.get_ctx().new_dynamic_size()
    idx = ptr.new_empty(entries)
    return ptr.new_empty(centres.shape[0] + 1), idx, torch.empty_like(idx)


_query = operator(
    "ball_query(Tensor x, Tensor ptr, Tensor centres, Tensor centres_ptr, float radius, int k) -> (Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=_empty_groups,
)


@torch.no_grad()
def ball_query(
    x: Tensor,
    centres: Tensor,
    radius: float,
    k: int,
    *,
    batch: Tensor | None = None,
    centres_batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Groups:
    """The first k points within `radius` of each centre; see the head of this file.

    Args:
        x: positions, dense [B, N, 3], or rows [M, 3] with `batch` [M] (None: one cloud).
        centres: dense [B, S, 3] for dense x, or rows [G, 3] with `centres_batch` [G]; they need not be points of x.
        radius: in the units of x, positive.
        k: at most this many points in a group; at least 1.

    Returns:
        Groups of rows of x (of x.reshape(-1, 3) for dense x), a group for each centre, in the order of the centres.

    Raises:
        ValueError: shapes do not fit, radius or k are not positive, or (on the CPU) a centre in an empty cloud.
    """
    if not 0 < radius < float("inf") or k < 1:
        raise ValueError(f"radius must be positive and k at least 1; got radius = {radius} and k = {k}.")
    both = positions_of_both(("x", "centres"), x, centres, batch, centres_batch, batch_size)
    check_has_numbers("x", both[0])
    return Groups(*_query(*both, float(radius), k))
