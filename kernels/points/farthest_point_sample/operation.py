r"""Farthest point sampling: m points of each cloud, each the farthest from those before it.

    s_0 = start,   s_t = the point i with the largest min over r < t of |x_i - x_{s_r}|^2

Of equally far points the smaller index is taken. Distances are sums of squared differences in float32 (float64 for
float64 points), in the order of the coordinates and without fused multiply-adds, so every device takes the same points.
There is no gradient: the choice is discrete.

Source: Eldar et al. 1997; PointNet++ (Qi et al. 2017, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_tensors
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.points.clouds import split_clouds
from dropfold.kernels.points.distances import squared_distances
from dropfold.kernels.points.positions import positions


@torch.no_grad()
def reference(
    x: Tensor,
    m: int,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """`farthest_point_sample` in plain torch, for any type and device: the textbook loop, and its specification."""
    if x.dim() == 2:
        rows, ptr = positions("x", x, batch, batch_size)
        starts = [None] * (len(ptr) - 1) if start is None else start.split(1)
        chosen = [reference(c[None], m, start=s)[0] for c, s in zip(split_clouds(rows, ptr), starts)]
        return torch.cat([idx + first for idx, first in zip(chosen, ptr)])
    newest = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device) if start is None else start
    chosen, least = [newest], torch.full_like(squared_distances(x[:, :1], x), torch.inf)
    for _ in range(m - 1):
        point = x.gather(1, newest[:, None, None].expand(-1, 1, 3))
        least = torch.minimum(least, squared_distances(point, x))
        newest = least[:, 0].argmax(1)  # the first of equals
        chosen.append(newest)
    return torch.stack(chosen, 1)


_sample = operator(
    "farthest_point_sample(Tensor x, Tensor ptr, Tensor start, SymInt m, SymInt largest) -> Tensor",
    implementations=__package__,
    fake=lambda x, ptr, start, m, largest: start.new_empty((start.shape[0], m)),
)


@torch.no_grad()
def farthest_point_sample(
    x: Tensor,
    m: int,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """m points of each cloud, far from one another; see the head of this file.

    Args:
        x: positions, dense [B, N, 3], or rows [M, 3] with `batch` [M] (None: one cloud).
        m: at least 1 and at most the points of the smallest cloud.
        start: int64 [B], the first point of each cloud, counted within it; 0 if it is not given.

    Returns:
        int64 [B, m] counted within the cloud for dense x, [B * m] row numbers for rows.

    Raises:
        ValueError: shapes do not fit, m is too large for a cloud or below 1, start is outside its cloud, or (on the CPU)
            a position is not finite.
    """
    rows, ptr = positions("x", x, batch, batch_size)
    clouds = ptr.shape[0] - 1
    if m < 1 or (x.dim() == 3 and m > x.shape[1]) or (x.dim() == 2 and batch is None and m > x.shape[0]):
        raise ValueError(
            f"m must be at least 1 and at most the points of a cloud; got m = {m} for x {describe(x)}."
        )
    if start is None:
        start = torch.zeros(clouds, dtype=torch.int64, device=x.device)
    check_tensors(x=x, start=start)
    if start.shape != (clouds,) or start.dtype != torch.int64:
        raise ValueError(
            f"start must be int64 [{clouds}], the first point of each cloud; got {describe(start)}."
        )
    # On a GPU the checks wait for the sizes, unless batch_size says that the caller knows them.
    if (x.is_cpu or (batch is not None and batch_size is None)) and not torch.compiler.is_compiling():
        sizes = ptr[1:] - ptr[:-1]
        if clouds and int(sizes.min()) < m:
            raise ValueError(
                f"m must be at most the points of the smallest cloud; got m = {m} and a cloud of {int(sizes.min())} points."
            )
        if bool(((start < 0) | (start >= sizes)).any()):
            raise ValueError(
                f"start counts within each cloud, from 0 to its points - 1; got {int(start.min())} to "
                f"{int(start.max())} for clouds of {int(sizes.min())} to {int(sizes.max())} points."
            )
    largest = x.shape[1] if x.dim() == 3 else x.shape[0]
    if batch is not None and clouds and not torch.compiler.is_compiling():
        largest = int((ptr[1:] - ptr[:-1]).max())
    idx = _sample(rows, ptr, start.contiguous(), m, largest)
    return idx - ptr[:-1, None] if x.dim() == 3 else idx.flatten()
