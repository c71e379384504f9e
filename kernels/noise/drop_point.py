r"""DropPoint: whole points are dropped, all their features at once.

    out_m = scale_m * x_m   where u_m >= p, else 0

u is the Philox number of kernels/noise/philox. `scaling` "unbiased": 1 / (1 - p), so that E[out] = x; "count": N / kept of
the cloud, as DropBlock; "none": 1. The gradient is the same map, drawn again from the seed: no mask is stored. For
p = 0 and in evaluation the result is x itself.

A dropped point is a zero, and zero wins a max over negative values: before a max pool, exclude it instead, by
passing the noise to `linear_norm_max`, `norm_pool` or `edge_conv`.

Source: arXiv 2103.15027 (point level); its relative on images is SpatialDropout turned by 90 degrees.
"""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.backend.inputs import check_tensors
from dropfold.kernels.noise import drop
from dropfold.kernels.noise.draw import Scaling, check, new_noise


def reference(
    x: Tensor,
    p: float | Tensor,
    *,
    seed: Tensor | None = None,
    scaling: Scaling = "unbiased",
    training: bool = True,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """`drop_point` in plain torch, with a stored mask: its specification. The same seed drops the same points."""
    if not training:
        return x
    noise = new_noise("point", p, x.device, seed=seed, scaling=scaling)
    return drop.reference(x, noise, batch=batch, batch_size=batch_size)


def drop_point(
    x: Tensor,
    p: float | Tensor,
    *,
    seed: Tensor | None = None,
    scaling: Scaling = "unbiased",
    training: bool = True,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Drop points of x (dense [B, N, C], or rows [M, C] with `batch` [M]) with probability p, 0 <= p < 1.

    `p` may be a 0-dim float32 tensor (the current value of a schedule); `seed` is a 0-dim int64 tensor, drawn from
    torch's generator if it is not given. Raises ValueError for other values.
    """
    check("point", p, scaling)
    check_tensors(x=x)
    if not training or (isinstance(p, float | int) and p == 0):
        return x
    noise = new_noise("point", p, x.device, seed=seed, scaling=scaling)
    return drop.drop(x, noise, batch=batch, batch_size=batch_size)
