r"""Features at queries from the k nearest points, weighted by inverse squared distance.

    out_i = sum_j w_ij f_j / sum_j w_ij,   w_ij = 1 / (|q_i - p_j|^2 + 1e-8),   j the k nearest of q_i in its cloud

Of equally near points the smaller index is taken; a cloud of fewer than k points uses all. Distances are sums of
squared differences in float32 (float64 for float64 positions). The gradient goes to the features alone,

    df_j = sum over i with j in N(i) of w_ij / (sum_j w_ij) dout_i,

over the transposed graph, without atomics: it is the same in every run.

Source: PointNet++ (Qi et al. 2017, equation 2, p = 2, k = 3); the 1e-8 is that of its public implementations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.inputs import check_floating
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.points.clouds import split_clouds
from dropfold.kernels.points.distances import nearest, squared_distances
from dropfold.kernels.points.positions import positions_of_both

EPS = 1e-8  # added to squared distances


def reference(
    features: Tensor,
    pos: Tensor,
    query: Tensor,
    *,
    k: int = 3,
    batch: Tensor | None = None,
    query_batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """`three_nn_interpolate` in plain torch, for any type and device: all distances of a cloud. Its specification.

    Differentiable in the features. Dense clouds take no step that depends on the data.
    """
    if pos.dim() == 2:
        rows, ptr, others, others_ptr = positions_of_both(
            ("pos", "query"), pos, query, batch, query_batch, batch_size
        )
        clouds = zip(split_clouds(features, ptr), split_clouds(rows, ptr), split_clouds(others, others_ptr))
        return torch.cat([reference(*(t[None] for t in cloud), k=k)[0] for cloud in clouds])
    d = squared_distances(query.detach(), pos.detach())
    idx = nearest(d, k)
    weight = 1 / (d.gather(2, idx) + EPS)
    weight = weight / weight.sum(2, keepdim=True)
    channels, dtype = features.shape[2], accumulator(features.dtype)
    near = features.gather(1, idx.flatten(1)[..., None].expand(-1, -1, channels)).unflatten(1, idx.shape[1:])
    return (weight.to(dtype)[..., None] * near.to(dtype)).sum(2).to(features.dtype)


def empty_neighbours(
    pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Room for the k nearest rows of each query [Q, k], int64, and their weights [Q, k]."""
    return ptr.new_empty((query.shape[0], k)), pos.new_empty((query.shape[0], k))


_nearest = operator(
    "three_nn(Tensor pos, Tensor ptr, Tensor query, Tensor query_ptr, int k) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_neighbours,
)
_interpolate = operator(
    "three_nn_interpolate_fwd(Tensor features, Tensor idx, Tensor weight) -> Tensor",
    implementations=__package__,
    fake=lambda features, idx, _: features.new_empty((idx.shape[0], features.shape[1])),
)
_backward = operator(
    "three_nn_interpolate_bwd(Tensor dout, Tensor idx, Tensor weight, SymInt rows) -> Tensor",
    implementations=__package__,
    fake=lambda dout, idx, weight, rows: dout.new_empty((rows, dout.shape[1])),
)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(idx, weight)
        ctx.rows = features.shape[0]
        return _interpolate(features, idx, weight)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(dout.contiguous(), *ctx.saved_tensors, ctx.rows), None, None


def three_nn_interpolate(
    features: Tensor,
    pos: Tensor,
    query: Tensor,
    *,
    k: int = 3,
    batch: Tensor | None = None,
    query_batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Features at `query` from those of the k nearest points of `pos`; see the head of this file.

    Args:
        features: dense [B, S, C], or rows [M, C].
        pos: their positions, [B, S, 3] or [M, 3] with `batch` [M] (None: one cloud).
        query: [B, N, 3] or [Q, 3] with `query_batch` [Q].
        k: at least 1; a cloud of fewer points uses all.

    Returns:
        [B, N, C] or [Q, C], in the type of the features.

    Raises:
        ValueError: shapes do not fit, k is below 1, or (on the CPU) a query in a cloud without points.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got k = {k}.")
    check_floating(features=features, pos=pos, query=query)
    if features.shape[:-1] != pos.shape[:-1] or features.dim() != pos.dim():
        raise ValueError(
            f"features must be [B, S, C] for pos [B, S, 3], or [M, C] for rows [M, 3]; got features {describe(features)} "
            f"and pos {describe(pos)}."
        )
    both = positions_of_both(("pos", "query"), pos, query, batch, query_batch, batch_size)
    with torch.no_grad():
        idx, weight = _nearest(*both, k)
    out = _Interpolate.apply(features.reshape(-1, features.shape[-1]).contiguous(), idx, weight)
    return out.view(*query.shape[:-1], features.shape[-1])
