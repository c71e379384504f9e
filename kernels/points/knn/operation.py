r"""k nearest neighbours within each cloud, in coordinates or in feature space.

    idx[i] = the k points j of i's cloud with the smallest |x_i - x_j|^2, in ascending order

The point itself is its own first neighbour, at distance 0 exactly (unless a copy of it has a smaller index). At equal
distances the smaller index wins, on every device. With at most 8 channels distances are sums of squared differences;
with more they are |x_i|^2 + |x_j|^2 - 2 x_i x_j of the cloud's centred features, one blocked matrix product, and points
whose distances differ by less than rounding may change places. NaN is nobody's neighbour; a point with too few has itself
in their places. Memory grows with N k and not with N^2. There is no gradient: the choice of neighbours is discrete. Half
precision is read as float32, and autocast is not applied.

Cost: N^2 C multiply-adds a cloud; on the CPU clouds of more than 4,096 points in 3-D are searched in boxes of points, which
finds the same neighbours in time that grows with N log N.

Source: the graph of DGCNN (Wang et al. 2019, section 3.2).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_floating
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.points.clouds import dense_ptr, split_clouds, to_rows
from dropfold.kernels.points.distances import nearest, squared_distances

MAX_SUMMED_CHANNELS = 8  # with more, distances come from one product of centred features


def reference(x: Tensor, k: int, *, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
    """`knn` in plain torch, for any type and device: all distances of a cloud, sorted. The specification of `knn`.

    Dense clouds take no step that depends on the data, so `torch.export` and ONNX follow it.
    """
    if x.dim() == 2:
        rows, ptr = to_rows(x, batch, batch_size)
        lists = [reference(cloud[None], k)[0] for cloud in split_clouds(rows, ptr)]
        return torch.cat([idx + start for idx, start in zip(lists, ptr)])
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    itself = torch.arange(x.shape[1], device=x.device)[:, None]
    if x.shape[2] <= MAX_SUMMED_CHANNELS:
        d = squared_distances(x, x)
        idx = nearest(d, k)
        return torch.where(d.gather(2, idx).isnan(), itself, idx)
    x = x - x.mean(1, keepdim=True)
    squares = x.square().sum(2)
    autocast = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
        products = x @ x.mT
    d = squares[:, :, None] + squares[:, None, :] - 2 * products
    own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    d = d.clamp(min=0).masked_fill(own, 0)
    idx = nearest(d, k)
    return torch.where(d.gather(2, idx).isnan(), itself, idx)


_knn = operator(
    "knn(Tensor x, Tensor ptr, int k) -> Tensor",
    implementations=__package__,
    fake=lambda x, ptr, k: x.new_empty((x.shape[0], k), dtype=torch.int64),
)


@torch.no_grad()
def knn(x: Tensor, k: int, *, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
    """The k nearest neighbours of each point, itself included; see the head of this file.

    Args:
        x: dense [B, N, C], or rows [M, C] with `batch` [M] (None: one cloud).
        k: at least 1 and at most the points of the smallest cloud.

    Returns:
        int64 [B, N, k] counted within the cloud, or [M, k] row numbers.

    Raises:
        ValueError: k is too large for a cloud, or below 1.
    """
    check_floating(x=x)
    rows, ptr = to_rows(x, batch, batch_size)
    if k < 1 or (x.dim() == 3 and k > x.shape[1]) or (batch is None and k > x.shape[-2]):
        raise ValueError(
            f"k must be at least 1 and at most the points of a cloud; got k = {k} for x {describe(x)}."
        )
    # On a GPU the check waits for the sizes, unless batch_size says that the caller knows them.
    if batch is not None and (x.is_cpu or batch_size is None) and not torch.compiler.is_compiling():
        smallest = min((ptr[1:] - ptr[:-1]).tolist(), default=0)
        if smallest < k:
            raise ValueError(
                f"k must be at most the points of the smallest cloud; got k = {k} and a cloud of {smallest} points."
            )
    idx = _knn(rows.detach(), ptr, k)
    if x.dim() == 2:
        return idx
    local = dense_ptr(x.shape[0], x.shape[1], x.device)[:-1, None, None]
    return idx.view(x.shape[0], x.shape[1], k) - local
