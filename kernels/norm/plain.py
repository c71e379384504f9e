"""What the plain forms (`reference`) of operations are made of: torch alone, all values stored, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    Statistics,
    running_statistics,
    several_processes,
    update_running,
)


def normalize(y: Tensor, norm: BatchNorm) -> Tensor:
    """BatchNorm of y [.., C] over all of its dimensions but the last; in training the running buffers move."""
    rows = y.flatten(0, -2).to(accumulator(y.dtype))
    if norm.training:
        count = _sum_rows(torch.ones_like(rows[:, :1]), norm.sync)
        mean = _sum_rows(rows, norm.sync) / count
        var = _sum_rows((rows - mean) ** 2, norm.sync) / count
        update_running(norm, Statistics(mean, var, count))
    else:
        mean, var, _ = running_statistics(norm, rows.dtype)
    z = norm.gamma * (rows - mean) / torch.sqrt(var + norm.eps) + norm.beta
    return z.to(y.dtype).view_as(y)


def _sum_rows(rows: Tensor, sync: bool) -> Tensor:
    """The sum over the rows, with `sync` over those of all processes."""
    total = rows.sum(0)
    if several_processes(sync):
        from torch.distributed.nn.functional import all_reduce  # the one that has a gradient

        total = all_reduce(total)
    return total


def activate(z: Tensor, negative_slope: float) -> Tensor:
    """LeakyReLU; with a slope of 0 ReLU, which makes 0 of -inf too."""
    return torch.relu(z) if negative_slope == 0 else torch.where(z > 0, z, negative_slope * z)


def masked_max(z: Tensor, keep: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`(max, argmax)` over `dim` of what is kept; 0 and -1 where nothing is. Of equal values the first is the argmax."""
    some = keep.any(dim)
    maximum, argmax = torch.where(keep, z, -torch.inf).max(dim)
    return torch.where(some, maximum, 0), torch.where(some, argmax, -1)


def max_over_segments(z: Tensor, keep: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """`masked_max` [B, C] of the rows ptr[b] .. ptr[b + 1] - 1 of z [M, C] for each b, padded; the argmax is a row."""
    if not len(z):
        nothing = z.new_zeros((len(ptr) - 1, z.shape[1]))
        return nothing, torch.full_like(nothing, -1, dtype=torch.int64)
    rows, inside = pad_segments(ptr)
    maximum, argmax = masked_max(z[rows], keep[rows] & inside[:, :, None], 1)
    return maximum, torch.where(argmax < 0, argmax, argmax + ptr[:-1, None])


def mean_over_segments(z: Tensor, keep: Tensor, ptr: Tensor) -> Tensor:
    """The mean [B, C] of what is kept of the rows ptr[b] .. ptr[b + 1] - 1 of z [M, C]; 0 where nothing is."""
    if not len(z):
        return z.new_zeros((len(ptr) - 1, z.shape[1]))
    rows, inside = pad_segments(ptr)
    keep_BNC = keep[rows] & inside[:, :, None]
    return torch.where(keep_BNC, z[rows], 0).sum(1) / keep_BNC.sum(1).clamp(min=1)


def pad_segments(ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, N] of B segments padded to the longest, and which of them are inside; padding repeats row 0."""
    sizes = ptr.diff()
    position = torch.arange(max(1, int(sizes.max())) if len(sizes) else 1, device=ptr.device)
    inside = position < sizes[:, None]
    return torch.where(inside, ptr[:-1, None] + position, 0), inside
