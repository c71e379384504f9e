"""Batch normalisation around an operation: what is left when its big sums are known.

An operation that ends in BatchNorm computes, over its own rows, the mean `mean_C` and the centred sum of squares
`m2_C = sum (y - mean)^2` of its output y. This file turns them into statistics over all processes, keeps the running
buffers, and gives the affine map and its gradient:

    y_hat = (y - mean) * rstd,   rstd = (var + eps)^-1/2,   z = gamma * y_hat + beta = scale * y + shift
    dL/dy = scale * (dz - mean(dz) - y_hat * mean(dz * y_hat))          [Ioffe & Szegedy 2015, section 3]

All vectors here have one entry a channel, in float32 (float64 for float64 input): nothing here is worth a kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """Mean and biased variance [C] of a channel over `count` rows (0-dim tensor) of all processes."""

    mean: Tensor
    var: Tensor
    count: Tensor  # type: ignore[assignment]


def sum_over_processes(x: Tensor, sync: bool) -> Tensor:
    """`x` summed over the processes if `sync` is set and there are several; `x` itself otherwise."""
    if not _several_processes(sync):
        return x
    x = x.clone()
    torch.distributed.all_reduce(x)
    return x


def batch_statistics(mean: Tensor, m2: Tensor, count: int, sync: bool) -> Statistics:
    """Merge each process's mean [C] and centred sum of squares [C] over `count` rows (Chan et al. 1979)."""
    total = torch.full((), float(count), dtype=mean.dtype, device=mean.device)
    if _several_processes(sync):
        sums = sum_over_processes(torch.cat([total[None], mean * count]), sync)
        total, local_mean, mean = sums[0], mean, sums[1:] / sums[0]
        m2 = sum_over_processes(m2 + count * (local_mean - mean) ** 2, sync)
    elif count < 2:
        raise ValueError(
            f"BatchNorm in training needs more than one value a channel and got {count}; "
            "use a larger batch, or evaluation mode."
        )
    return Statistics(mean, m2 / total, total)


def update_running(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    statistics: Statistics,
    momentum: float,
    bias: Tensor | None = None,
) -> None:
    """Move the running buffers towards `statistics`, in place, as `nn.BatchNorm1d` does (unbiased variance)."""
    if running_mean is None or running_var is None:
        return
    mean = statistics.mean if bias is None else statistics.mean + bias.detach()
    unbiased = statistics.var * (statistics.count / (statistics.count - 1))
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def affine(
    gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`(scale, shift, rstd)` with `scale * y + shift = gamma * (y - mean) * rstd + beta`."""
    rstd = torch.rsqrt(var + eps)
    scale = gamma.to(rstd.dtype) * rstd
    return scale, beta.to(rstd.dtype) - mean * scale, rstd


def _several_processes(sync: bool) -> bool:
    return sync and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
