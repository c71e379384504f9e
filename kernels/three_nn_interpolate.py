r"""Features of points from the k nearest points that have them, weighted by inverse squared distance.

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
from torch.autograd.function import once_differentiable

from kernels._clouds import coordinates, describe, to_rows
from kernels._operator import operator

# --- CPU ---------------------------------------------------------------------------------------------------------


def _cpu_nearest(pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int) -> tuple[Tensor, Tensor]:
    idx, weight = _fake_nearest(pos, ptr, query, query_ptr, k)
    idx[:], weight[:] = 0, 0
    for b in range(ptr.shape[0] - 1):
        cloud, own = pos[ptr[b] : ptr[b + 1]], slice(int(query_ptr[b]), int(query_ptr[b + 1]))
        d = (query[own, None] - cloud).square()
        d, order = (d[..., 0] + d[..., 1] + d[..., 2]).sort(dim=1, stable=True)
        near = min(k, len(cloud))
        idx[own] = ptr[b]  # with weight 0 where the cloud has fewer than k points
        idx[own, :near] += order[:, :near]
        weight[own, :near] = 1 / (d[:, :near] + 1e-8)
    return idx, weight / weight.sum(1, keepdim=True)


def _cpu_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    return (features[idx] * weight[..., None]).sum(1).to(features.dtype)


def _cpu_backward(dout: Tensor, idx: Tensor, weight: Tensor, rows: int) -> Tensor:
    df = torch.zeros((rows, dout.shape[1]), dtype=torch.promote_types(dout.dtype, weight.dtype))
    for j in range(idx.shape[1]):
        df.index_add_(0, idx[:, j], dout * weight[:, j, None])
    return df.to(dout.dtype)


# --- operators, autograd, public function ------------------------------------------------------------------------


def _fake_nearest(
    pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    return ptr.new_empty((query.shape[0], k)), pos.new_empty((query.shape[0], k))


_nearest = operator(
    "three_nn(Tensor pos, Tensor ptr, Tensor query, Tensor query_ptr, int k) -> (Tensor, Tensor)",
    cpu=_cpu_nearest,
    triton=_cpu_nearest,
    fake=_fake_nearest,
)
_interpolate = operator(
    "three_nn_interpolate_fwd(Tensor features, Tensor idx, Tensor weight) -> Tensor",
    cpu=_cpu_interpolate,
    triton=_cpu_interpolate,
    fake=lambda features, idx, _: features.new_empty((idx.shape[0], features.shape[1])),
)
_backward = operator(
    "three_nn_interpolate_bwd(Tensor dout, Tensor idx, Tensor weight, int rows) -> Tensor",
    cpu=_cpu_backward,
    triton=_cpu_backward,
    fake=lambda dout, idx, weight, rows: dout.new_empty((rows, dout.shape[1])),
)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(idx, weight)
        ctx.rows = features.shape[0]
        return _interpolate(features, idx, weight)

    @staticmethod
    @once_differentiable
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
    if features.shape[:-1] != pos.shape[:-1] or features.dim() != pos.dim():
        raise ValueError(
            f"features must be [B, S, C] for pos [B, S, 3], or [M, C] for rows [M, 3]; got features {describe(features)} "
            f"and pos {describe(pos)}."
        )
    if query.dim() != pos.dim() or (pos.dim() == 3 and pos.shape[0] != query.shape[0]):
        raise ValueError(
            f"pos and query must be of the same clouds, [B, S, 3] and [B, N, 3], or rows [M, 3] and [Q, 3]; got pos "
            f"{describe(pos)} and query {describe(query)}."
        )
    if (batch is None) != (query_batch is None):
        raise ValueError("batch and query_batch go together: both say which cloud a row is of; got one.")
    if batch is not None and query_batch is not None and batch_size is None:
        batch_size = 1 + max((int(b[-1]) for b in (batch, query_batch) if b.numel()), default=-1)
    rows, ptr = coordinates("pos", pos, batch, batch_size)
    queries, query_ptr = coordinates("query", query, query_batch, batch_size)
    if pos.is_cpu and not torch.compiler.is_compiling():
        alone = (ptr[1:] == ptr[:-1]) & (query_ptr[1:] > query_ptr[:-1])
        if bool(alone.any()):
            raise ValueError(
                f"every cloud that has queries must have points; cloud {int(alone.nonzero()[0])} of pos {describe(pos)} has "
                "none."
            )
    dtype = torch.promote_types(rows.dtype, queries.dtype)
    with torch.no_grad():
        idx, weight = _nearest(rows.to(dtype), ptr, queries.to(dtype), query_ptr, k)
    out = _Interpolate.apply(to_rows(features, batch, batch_size)[0].contiguous(), idx, weight)
    return out.view(*query.shape[:-1], features.shape[-1])
