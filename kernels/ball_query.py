r"""Points within a radius of centres, as groups in CSR form.

    group g = the first k rows j, in index order, of g's cloud with |x_j - c_g|^2 <= radius^2

A point is out where its squared distance, a sum of squared differences in float32 (float64 for float64 points), is
larger than radius^2 rounded to the same type. The padded form that is usual elsewhere, [G, k], repeats the first entry
in a group of n < k points; here that entry's `count` is k - n + 1, all others' is 1, and `Groups.padded(k)` gives the
padded form. A ball that holds no point takes the nearest one (of equally near ones the smaller index), with count k.
There is no gradient: the choice is discrete.

Source: PointNet++ (Qi et al. 2017, section 3.2); the padding is that of its public implementations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels._clouds import coordinates, describe
from kernels._groups import Groups
from kernels._operator import operator

# --- CPU ---------------------------------------------------------------------------------------------------------


def _cpu_query(
    x: Tensor, ptr: Tensor, centres: Tensor, centres_ptr: Tensor, radius: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    limit = torch.tensor(radius * radius, dtype=x.dtype)
    lists, counts = [], []
    for b in range(ptr.shape[0] - 1):
        cloud, first = x[ptr[b] : ptr[b + 1]], int(ptr[b])
        for c in centres[centres_ptr[b] : centres_ptr[b + 1]]:
            d = (cloud - c).square()
            d = d[:, 0] + d[:, 1] + d[:, 2]
            found = (d <= limit).nonzero()[:k, 0]
            if not len(found):
                found = (d == d.min()).nonzero()[:1, 0]
            lists.append(found + first)
            counts.append(torch.ones_like(found))
            counts[-1][0] += k - len(found)
    sizes = torch.tensor([0, *map(len, lists)])
    none = [torch.empty(0, dtype=torch.int64)]
    return sizes.cumsum(0), torch.cat(lists or none), torch.cat(counts or none)


# --- operators, public function ----------------------------------------------------------------------------------


def _fake_query(x: Tensor, ptr: Tensor, centres: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    entries = torch.library.get_ctx().new_dynamic_size()
    idx = ptr.new_empty(entries)
    return ptr.new_empty(centres.shape[0] + 1), idx, torch.empty_like(idx)


_query = operator(
    "ball_query(Tensor x, Tensor ptr, Tensor centres, Tensor centres_ptr, float radius, int k) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_query,
    triton=_cpu_query,
    fake=_fake_query,
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
        k: the most points of a group, at least 1.

    Returns:
        Groups of rows of x (of x.reshape(-1, 3) for dense x), a group for each centre, in the order of the centres.

    Raises:
        ValueError: shapes do not fit, radius or k are not positive, or (on the CPU) a centre in an empty cloud.
    """
    if x.dim() != centres.dim() or (x.dim() == 3 and x.shape[0] != centres.shape[0]):
        raise ValueError(
            f"x and centres must be of the same clouds, [B, N, 3] and [B, S, 3], or rows [M, 3] and [G, 3]; got x "
            f"{describe(x)} and centres {describe(centres)}."
        )
    if (batch is None) != (centres_batch is None):
        raise ValueError("batch and centres_batch go together: both say which cloud a row is of; got one.")
    if not 0 < radius < float("inf") or k < 1:
        raise ValueError(f"radius must be positive and k at least 1; got radius = {radius} and k = {k}.")
    if batch is not None and centres_batch is not None and batch_size is None:
        batch_size = 1 + max((int(b[-1]) for b in (batch, centres_batch) if b.numel()), default=-1)
    rows, ptr = coordinates("x", x, batch, batch_size)
    middles, centres_ptr = coordinates("centres", centres, centres_batch, batch_size)
    dtype = torch.promote_types(rows.dtype, middles.dtype)
    if x.is_cpu and not torch.compiler.is_compiling():
        alone = (ptr[1:] == ptr[:-1]) & (centres_ptr[1:] > centres_ptr[:-1])
        if bool(alone.any()):
            raise ValueError(
                f"every cloud that has centres must have points; cloud {int(alone.nonzero()[0])} of x {describe(x)} has "
                "none."
            )
    return Groups(*_query(rows.to(dtype), ptr, middles.to(dtype), centres_ptr, float(radius), k))
