"""Squared distances and nearest points in plain torch, on which the references of this folder stand."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 [..., S, N] of a [..., S, C] and b [..., N, C]: squared differences, summed in the order of C.

    At least in float32; rounded as the kernels round, so that comparisons have the same outcome.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    if not a.shape[-1]:  # of no channels: a sum of nothing
        return (a[..., :, None, :] * b[..., None, :, :]).sum(-1)
    total = (a[..., :, None, 0] - b[..., None, :, 0]).square()
    for c in range(1, a.shape[-1]):
        total = total + (a[..., :, None, c] - b[..., None, :, c]).square()
    return total


def nearest(distances: Tensor, k: int) -> Tensor:
    """int64 [..., k]: the k smallest of distances [..., N], ascending; at equal distances the smaller index wins.

    `topk` does not promise that order of equal values; a stable sort does.
    """
    if torch.compiler.is_exporting():
        return _rank(distances).topk(k, largest=False).indices
    return torch.sort(distances, dim=-1, stable=True).indices[..., :k]


def _rank(distances: Tensor) -> Tensor:
    """Different integers in the order of (distance, index): for ONNX, which has no stable sort."""
    values, order = torch.sort(distances, dim=-1)
    level = torch.nn.functional.pad((values[..., 1:] > values[..., :-1]).to(torch.int64), (1, 0)).cumsum(-1)
    points = distances.shape[-1]
    return level.scatter(-1, order, level) * points + torch.arange(points, device=distances.device)
