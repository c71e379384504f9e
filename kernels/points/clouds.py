"""Clouds of points as rows: the one form in which every operation takes them.

A batch is `x [M, C]`, the points of all clouds below one another, and `ptr [B + 1]` (int64): cloud b is
`x[ptr[b]:ptr[b + 1]]`. The dense form `[B, N, C]` and PyG's `(x, batch)` become rows without copying a point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_tensors


def dense_ptr(clouds: int, points: int, device: torch.device) -> Tensor:
    """Row offsets of `clouds` clouds of `points` points each: [clouds + 1] int64."""
    return torch.arange(clouds + 1, device=device) * points


def batch_to_ptr(batch: Tensor, batch_size: int | None = None) -> Tensor:
    """Row offsets [B + 1] of PyG's sorted `batch` [M]; with `batch_size` the CPU need not wait for the GPU."""
    if batch.dim() != 1 or batch.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"batch must be a 1-D integer tensor, one cloud number a point; got {describe(batch)}."
        )
    if batch_size is None:
        batch_size = int(batch[-1]) + 1 if batch.numel() else 0
    if batch.is_cpu and batch.numel() and not torch.compiler.is_compiling():
        if bool((batch[1:] < batch[:-1]).any()):
            raise ValueError(
                "batch must be sorted: the points of a cloud stand together, as PyG has them. Sort the rows and batch by "
                "batch.argsort(stable=True)."
            )
        if not 0 <= int(batch[0]) <= int(batch[-1]) < batch_size:
            raise ValueError(
                f"batch must count clouds from 0 to batch_size - 1 = {batch_size - 1}; got {int(batch[0])} to "
                f"{int(batch[-1])}."
            )
    return torch.searchsorted(batch, torch.arange(batch_size + 1, device=batch.device, dtype=batch.dtype))


def ptr_to_batch(ptr: Tensor, rows: int) -> Tensor:
    """The cloud number of each row, [rows] int64: the inverse of `batch_to_ptr`."""
    return torch.searchsorted(ptr, torch.arange(rows, device=ptr.device), right=True) - 1


def to_rows(x: Tensor, batch: Tensor | None = None, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
    """`(rows [M, C], ptr [B + 1])` of dense `x [B, N, C]`, or of `x [M, C]` with PyG's `batch [M]` (None: one cloud)."""
    check_tensors(x=x, batch=batch)
    if x.dim() == 3:
        if batch is not None:
            raise ValueError(
                f"batch goes with rows x [M, C]; a dense x [B, N, C] needs none. Got x {describe(x)}."
            )
        return x.flatten(0, 1), dense_ptr(x.shape[0], x.shape[1], x.device)
    if x.dim() != 2:
        raise ValueError(f"x must be dense [B, N, C], or rows [M, C] with batch [M]; got {describe(x)}.")
    if batch is None:
        return x, dense_ptr(1, x.shape[0], x.device)
    if batch.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"batch must have one entry for each of the {x.shape[0]} rows of x; got {describe(batch)}."
        )
    return x, batch_to_ptr(batch, batch_size)


def split_clouds(x: Tensor, ptr: Tensor) -> tuple[Tensor, ...]:
    """The clouds [n, C] of rows x [M, C]; the CPU waits for the sizes."""
    return x.split((ptr[1:] - ptr[:-1]).tolist())


def global_idx(idx: Tensor) -> Tensor:
    """Row numbers [B * N, k] of dense neighbour lists [B, N, k], which count within their cloud; lists of rows unchanged."""
    if idx.dim() == 2:
        return idx
    clouds, points, k = idx.shape
    return (idx + dense_ptr(clouds, points, idx.device)[:-1, None, None]).reshape(-1, k)


def local_idx(idx: Tensor, ptr: Tensor, x: Tensor) -> Tensor:
    """Row numbers [B, C] of points, one cloud a row, as x counts its points: within the cloud for dense x [B, N, C],
    unchanged for rows [M, C]. A negative number means no point and stays."""
    return torch.where(idx < 0, idx, idx - ptr[:-1, None]) if x.dim() == 3 else idx


def check_neighbours(idx: Tensor, x: Tensor) -> None:
    """Refuse neighbour lists that do not fit x, dense or rows (see `to_rows`), and on the CPU numbers out of range."""
    check_tensors(x=x, neighbours=idx)
    if (
        x.dim() not in (2, 3)
        or idx.shape[:-1] != x.shape[:-1]
        or idx.dim() != x.dim()
        or idx.dtype != torch.int64
        or idx.shape[-1] < 1
    ):
        raise ValueError(
            "neighbours must be int64 [B, N, k] for dense x, or [M, k] for rows, with k of 1 or more; got "
            f"{describe(idx)} for x {describe(x)}."
        )
    if x.is_cpu and idx.numel() and not torch.compiler.is_compiling():
        low, high = (int(i) for i in idx.aminmax())
        if low < 0 or high >= x.shape[-2]:
            raise ValueError(
                f"neighbours must be from 0 to {x.shape[-2] - 1} for x {describe(x)}; got {low} to {high}. Dense lists "
                "count within their cloud."
            )


def check_rows(idx: Tensor, rows: int) -> None:
    """Refuse row numbers with which a CPU kernel would read foreign memory."""
    if idx.numel():
        low, high = (int(i) for i in idx.aminmax())
        if low < 0 or high >= rows:
            raise ValueError(
                f"neighbours are row numbers from 0 to {rows - 1} here; got {describe(idx)} from {low} to {high}."
            )


def transpose_lists(targets: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """For each row, where it is in `targets` (row numbers, any shape): `(ptr [rows + 1], entries)`, both int64.

    `entries[ptr[j]:ptr[j + 1]]` are the flat positions of j in `targets`, ascending. Negative targets are left out.
    Sums over these lists need no atomics, so they are the same in every run.
    """
    flat = targets.flatten()
    if flat.is_cpu:
        from dropfold.kernels.backend.numba import launch
        from dropfold.kernels.points.cpu import transpose

        ptr, entries = flat.new_empty(rows + 1), torch.empty_like(flat)
        launch(transpose, flat, ptr, entries)
        return ptr, entries
    ordered, entries = torch.sort(flat, stable=True)
    return torch.searchsorted(ordered, torch.arange(rows + 1, device=flat.device)), entries
