"""Positions in space as rows, checked, for the operations that sample and search points."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_tensors
from dropfold.kernels.points.clouds import to_rows


def positions(
    name: str, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """`(rows [M, 3], ptr [B + 1])` of positions: float64 stays float64, all others become float32.

    Autocast never rounds them. On the CPU they must be finite; `name` is what an error message calls them.
    """
    check_tensors(**{name: x})
    if x.dim() not in (2, 3) or x.shape[-1] != 3 or not x.is_floating_point():
        raise ValueError(
            f"{name} must be positions in space, [B, N, 3] or rows [M, 3], of a floating type; got {describe(x)}."
        )
    rows, ptr = to_rows(x.detach(), batch, batch_size)
    rows = rows.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    if x.is_cpu and not torch.compiler.is_compiling() and not _are_finite(rows):
        bad = (~rows.isfinite()).any(1).nonzero()[:, 0]
        raise ValueError(
            f"{name} must be finite; {len(bad)} of {len(rows)} rows hold NaN or infinity, the first is row {int(bad[0])}. "
            "Leave such points out."
        )
    return rows, ptr


def _are_finite(rows: Tensor) -> bool:
    from dropfold.kernels.backend.numba import launch
    from dropfold.kernels.points.cpu import all_finite

    return launch(all_finite, rows)


def positions_of_both(
    names: tuple[str, str],
    x: Tensor,
    others: Tensor,
    batch: Tensor | None,
    others_batch: Tensor | None,
    batch_size: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and ptr of `x`, then of `others`, which belong to the same clouds; both in one type.

    On the CPU a cloud with others must have points. `names` is what error messages call the two.
    """
    check_tensors(**dict(zip(names, (x, others), strict=True)))
    if x.dim() != others.dim() or (x.dim() == 3 and x.shape[0] != others.shape[0]):
        raise ValueError(
            f"{names[0]} and {names[1]} must be of the same clouds, [B, N, 3] and [B, S, 3], or rows [M, 3] and [S, 3]; got "
            f"{names[0]} {describe(x)} and {names[1]} {describe(others)}."
        )
    if (batch is None) != (others_batch is None):
        raise ValueError(
            f"batches go together, one of {names[0]} and one of {names[1]}: they say which cloud a row is of; got one."
        )
    if batch is not None and others_batch is not None and batch_size is None:
        batch_size = 1 + max((int(b[-1]) for b in (batch, others_batch) if b.numel()), default=-1)
    rows, ptr = positions(names[0], x, batch, batch_size)
    other_rows, other_ptr = positions(names[1], others, others_batch, batch_size)
    if x.is_cpu and not torch.compiler.is_compiling():
        alone = (ptr[1:] == ptr[:-1]) & (other_ptr[1:] > other_ptr[:-1])
        if bool(alone.any()):
            raise ValueError(
                f"every cloud that has {names[1]} must have points; cloud {int(alone.nonzero()[0])} of {names[0]} "
                f"{describe(x)} has none."
            )
    dtype = torch.promote_types(rows.dtype, other_rows.dtype)
    return rows.to(dtype), ptr, other_rows.to(dtype), other_ptr
