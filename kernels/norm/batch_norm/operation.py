"""Batch normalisation around an operation: what is left when its big sums are known.

An operation that ends in BatchNorm computes, over its own rows, the mean `mean_C` and the centred sum of squares
`m2_C = sum (y - mean)^2` of its output y. This file turns them into statistics over all processes, keeps the running
buffers, and gives the affine map and its gradient:

    y_hat = (y - mean) * rstd,   rstd = (var + eps)^-1/2,   z = gamma * y_hat + beta = scale * y + shift
    dL/dy = scale * (dz - mean(dz) - y_hat * mean(dz * y_hat))          [Ioffe & Szegedy 2015, section 3]

The vectors have one entry a channel, in float32 (float64 for float64 input), and are too small for kernels. The one
kernel here takes mean and m2 of a tensor in memory, block by block, each block about its own mean.

An operation that ends in a max makes no use of a decreasing BatchNorm: `fold_sign` makes each one increasing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_floating, check_has_numbers
from dropfold.kernels.backend.launch import accumulator, cdiv
from dropfold.kernels.backend.operator import operator

ROWS_PER_BLOCK = 256  # whose sums are taken in float32 before the blocks are merged in float64


class BatchNorm(NamedTuple):
    """What an operation needs to know of the BatchNorm inside it.

    gamma, beta [C]: scale and shift, learnt.
    mean, var [C]: the running buffers of `nn.BatchNorm1d`: read in evaluation, moved in place by `momentum` in training
        (var towards the unbiased variance).
    training: normalise with the batch's mean and biased variance; otherwise with the running ones.
    sync: statistics over all processes of the default group.
    """

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor
    training: bool
    momentum: float = 0.1
    eps: float = 1e-5
    sync: bool = False


class Statistics(NamedTuple):
    """Mean and biased variance [C] of a channel over `count` rows (0-dim tensor) of all processes."""

    mean: Tensor
    var: Tensor
    count: Tensor  # type: ignore[assignment]


def several_processes(sync: bool) -> bool:
    """Whether statistics are taken over more than this process."""
    return sync and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def sum_over_processes(x: Tensor, sync: bool) -> Tensor:
    """`x` summed over the processes if `sync` is set and there are several; `x` itself otherwise."""
    if not several_processes(sync):
        return x
    x = x.clone()
    torch.distributed.all_reduce(x)
    return x


def batch_statistics(mean: Tensor, m2: Tensor, count: int | Tensor, sync: bool) -> Statistics:
    """Merge each process's mean [C] and centred sum of squares [C] over `count` rows (Chan et al. 1979); a count that is a
    0-dim tensor is not checked."""
    if isinstance(count, Tensor):
        total = count.to(mean.dtype)
    else:
        total = torch.full((), float(count), dtype=mean.dtype, device=mean.device)
    if several_processes(sync):
        sums = sum_over_processes(torch.cat([total[None], mean * count]), sync)
        total, local_mean, mean = sums[0], mean, sums[1:] / sums[0]
        m2 = sum_over_processes(m2 + count * (local_mean - mean) ** 2, sync)
    elif not isinstance(count, Tensor):
        check_rows(count)
    return Statistics(mean, m2 / total, total)


@torch.no_grad()
def update_running(norm: BatchNorm, statistics: Statistics, bias: Tensor | None = None) -> None:
    """Move the running buffers towards `statistics` (of values without `bias`), as `nn.BatchNorm1d` does."""
    mean = statistics.mean if bias is None else statistics.mean + bias
    unbiased = statistics.var * (statistics.count / (statistics.count - 1))
    norm.mean.lerp_(mean.to(norm.mean.dtype), norm.momentum)
    norm.var.lerp_(unbiased.to(norm.var.dtype), norm.momentum)


def running_statistics(norm: BatchNorm, dtype: torch.dtype) -> Statistics:
    """The running buffers as statistics in the type of the sums."""
    dtype = accumulator(dtype)
    return Statistics(norm.mean.to(dtype), norm.var.to(dtype), torch.ones_like(norm.mean[0], dtype=dtype))


@torch.no_grad()
def statistics(rows: Tensor, norm: BatchNorm, bias: Tensor | None = None) -> Statistics:
    """Those that normalise rows [M, C], values without `bias`; in training the running buffers move."""
    if not norm.training:
        return running_statistics(norm, rows.dtype)
    of_batch = batch_statistics(*moments(rows), rows.shape[0], norm.sync)
    update_running(norm, of_batch, bias)
    return of_batch


def fold_bias(norm: BatchNorm, bias: Tensor | None) -> Tensor:
    """beta for values without the linear map's bias: in training it cancels against the mean."""
    if bias is None:
        return norm.beta
    return norm.beta + (0 if norm.training else norm.gamma * torch.rsqrt(norm.var + norm.eps)) * bias


def fold_sign(norm: BatchNorm) -> tuple[Tensor, BatchNorm]:
    """`(sign [C], increasing norm)`: of `sign * y` the second makes what `norm` makes of y, with gamma >= 0.

    The sign goes into the linear map that makes y. BatchNorm and an increasing activation then keep the order of the values,
    and the max can be taken before them. At gamma = 0 the sign is 1, so gamma's gradient is the one from above. The mean is
    a copy of the buffer: what `update_running` moves is `norm`.
    """
    sign = torch.where(norm.gamma.detach() < 0, -1, 1).to(norm.gamma.dtype)
    return sign, norm._replace(gamma=sign * norm.gamma, mean=sign.to(norm.mean.dtype) * norm.mean)


def check_weight(weight: Tensor, channels: int, x: Tensor, bias: Tensor | None = None) -> None:
    """Refuse a weight that does not take `channels` channels, those that x has or that are made of x, and its bias."""
    check_floating(x=x, weight=weight, bias=bias)
    check_has_numbers("x", x)
    if weight.dim() != 2 or weight.shape[1] != channels:
        raise ValueError(f"weight must be [C_out, {channels}] for x {describe(x)}; got {describe(weight)}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must be [{weight.shape[0]}] for weight {describe(weight)}; got {describe(bias)}."
        )


def check_channels(channels: int, norm: BatchNorm, x: Tensor) -> None:
    """Refuse BatchNorm parameters of another width or on another device than the values, which are made of x."""
    check_floating(x=x, **dict(zip(norm._fields[:4], norm[:4], strict=True)))
    for name, t in zip(norm._fields[:4], norm[:4], strict=True):
        if t.shape != (channels,):
            raise ValueError(
                "gamma, beta, mean and var must have one entry for each of the "
                f"{channels} channels; got {name} {describe(t)}."
            )


def check_rows(count: int) -> None:
    """Refuse to take a variance of one value."""
    if count < 2:
        raise ValueError(
            f"BatchNorm in training needs more than one value a channel and got {count}; "
            "use a larger batch, or evaluation mode."
        )


def check_increasing(negative_slope: float) -> None:
    """Refuse a LeakyReLU that the max may not be taken before."""
    if negative_slope < 0:
        raise ValueError(f"negative_slope must be at least 0, the max needs it; got {negative_slope}.")


def affine(
    gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`(scale, shift, rstd)` with `scale * y + shift = gamma * (y - mean) * rstd + beta`."""
    rstd = torch.rsqrt(var + eps)
    scale = gamma.to(rstd.dtype) * rstd
    return scale, beta.to(rstd.dtype) - mean * scale, rstd


def norm_gradients(
    sums: Tensor, count: Tensor, training: bool, sync: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(dbeta, dgamma, mean(dz), mean(dz y_hat))` from this process's sums [2, C] of dz and dz y_hat.

    The gradients of gamma and beta are local, as every parameter's; the two means are over all processes, and zero in
    evaluation, where the statistics are constants.
    """
    dbeta, dgamma = sums[0], sums[1]
    if not training:
        return dbeta, dgamma, torch.zeros_like(dbeta), torch.zeros_like(dbeta)
    means = sum_over_processes(sums, sync) / count
    return dbeta, dgamma, means[0], means[1]


def merge_moments(means: Tensor, m2s: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [C] and centred sum of squares [C] from those of P blocks [P, C] with counts [P] (Chan et al. 1979)."""
    n, block_means = counts.double()[:, None], means.double()
    # A process may hold no rows: their mean is 0.
    mean = (n * block_means).sum(0) / n.sum().clamp(min=1)
    m2 = (m2s.double() + n * (block_means - mean) ** 2).sum(0)
    return mean.to(means.dtype), m2.to(means.dtype)


def block_counts(rows: int, block: int, device: torch.device) -> Tensor:
    """The rows of each of the blocks: `block`, and in the last what is left."""
    starts = torch.arange(0, rows, block, device=device)
    return (rows - starts).clamp(max=block)


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [C] and centred sum of squares [C] of the columns of y [M, C]."""
    means, m2s = _moments(y)
    return merge_moments(means, m2s, block_counts(y.shape[0], ROWS_PER_BLOCK, y.device))


def empty_moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Means and centred sums of squares [P, C] of P blocks of the rows of y [M, C]."""
    means = y.new_empty((cdiv(y.shape[0], ROWS_PER_BLOCK), y.shape[1]), dtype=accumulator(y.dtype))
    return means, means.new_empty(means.shape)


_moments = operator("moments(Tensor y) -> (Tensor, Tensor)", implementations=__package__, fake=empty_moments)
