r"""Features of points from the k nearest points that have them, weighted by inverse squared distance.

    out_i = sum_j w_ij f_j / sum_j w_ij,   w_ij = 1 / (|q_i - p_j|^2 + 1e-8),   j the k nearest of q_i in its cloud

Of equally near points the smaller index is taken; a cloud of fewer than k points uses all. Distances are sums of
squared differences in float32 (float64 for float64 positions). The gradient goes to the features alone,

    df_j = sum over i with j in N(i) of w_ij / (sum_j w_ij) dout_i,

over the transposed graph, without atomics: it is the same in every run.

Source: PointNet++ (Qi et al. 2017, equation 2, p = 2, k = 3); the 1e-8 is that of its public implementations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._boxes import DEPTH, LEAF, NONE, boxes_of, nearest
from kernels._clouds import coordinates, describe, ptr_to_batch, to_rows, transposed
from kernels._numba import njit
from kernels._operator import operator
from kernels._triton import accumulator

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

CHUNK = 32  # points that a core takes at a time
EPS = 1e-8  # added to squared distances

# --- CPU ---------------------------------------------------------------------------------------------------------


@njit(parallel=True)
def _nearest_cpu(ptr, query, batch, points, index, leaves, nodes, boxes, idx, weight):
    queries, k = idx.shape
    number = query.dtype.type  # with a Python number float32 becomes float64
    one, least = number(1), number(EPS)
    for block in prange((queries + CHUNK - 1) // CHUNK):
        stack, distances = np.empty(DEPTH, np.int32), np.empty(LEAF, query.dtype)
        keys, best = np.empty(k, query.dtype), np.empty(k, np.int32)
        for i in range(block * CHUNK, min(queries, (block + 1) * CHUNK)):
            b = batch[i]
            nearest(
                points[leaves[b] : leaves[b + 1]], index[leaves[b] : leaves[b + 1]], boxes[nodes[b] : nodes[b + 1]],
                query[i, 0], query[i, 1], query[i, 2], stack, distances, keys, best,
            )  # fmt: skip
            total = number(0)
            for e in range(k):
                there = best[e] != NONE
                w = one / (keys[e] + least) if there else number(0)
                idx[i, e] = ptr[b] + (best[e] if there else 0)
                weight[i, e] = w
                total += w
            for e in range(k):
                weight[i, e] /= total


def _cpu_nearest(pos: Tensor, ptr: Tensor, query: Tensor, query_ptr: Tensor, k: int) -> tuple[Tensor, Tensor]:
    idx, weight = _fake_nearest(pos, ptr, query, query_ptr, k)
    _nearest_cpu(ptr, query, ptr_to_batch(query_ptr, query.shape[0]), *boxes_of(pos, ptr), idx, weight)
    return idx, weight


@njit(parallel=True)
def _interpolate_cpu(features, idx, weight, out):
    queries, k = idx.shape
    for block in prange((queries + CHUNK - 1) // CHUNK):
        for i in range(block * CHUNK, min(queries, (block + 1) * CHUNK)):
            own = out[i]
            own[:] = 0
            for e in range(k):
                row, w = features[idx[i, e]], weight[i, e]
                for c in range(own.shape[0]):
                    own[c] += w * row[c]


@njit(parallel=True)
def _backward_cpu(dout, weight, ptr, entries, df):
    k = weight.shape[1]
    for block in prange((df.shape[0] + CHUNK - 1) // CHUNK):
        for j in range(block * CHUNK, min(df.shape[0], (block + 1) * CHUNK)):
            own = df[j]
            own[:] = 0
            for e in range(ptr[j], ptr[j + 1]):
                i = entries[e] // k
                row, w = dout[i], weight[i, entries[e] - i * k]
                for c in range(own.shape[0]):
                    own[c] += w * row[c]


def _cpu_interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    wide = features.to(accumulator(features.dtype))
    out = wide.new_empty((idx.shape[0], wide.shape[1]))
    _interpolate_cpu(wide, idx, weight.to(wide.dtype), out)
    return out.to(features.dtype)


def _cpu_backward(dout: Tensor, idx: Tensor, weight: Tensor, rows: int) -> Tensor:
    wide = dout.to(accumulator(dout.dtype))
    df = wide.new_empty((rows, wide.shape[1]))
    _backward_cpu(wide, weight.to(wide.dtype), *transposed(idx, rows), df)
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
