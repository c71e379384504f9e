r"""DropPoint: whole points fall, all their features at once.

    out_m = scale_m * x_m   where u_m >= p, else 0

u is the Philox number of philox.py. `scaling` "unbiased": 1 / (1 - p), so that E[out] = x; "count": N / kept of
the cloud, as DropBlock; "none": 1. The gradient is the same map, drawn again from the seed: no mask is stored. For
p = 0 and in evaluation the result is x itself.

A dropped point is a zero, and zero wins a max over negative values: before a max pool, exclude it instead, by
passing the noise to `linear_norm_max`, `norm_pool` or `edge_conv`.

Source: arXiv 2103.15027 (point level); its relative on images is SpatialDropout turned by 90 degrees.
"""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.noise.draw.operation import Noise, Scaling, as_rate, check
from dropfold.kernels.noise.elementwise.operation import drop
from dropfold.kernels.noise.philox.operation import as_seed
from dropfold.kernels.points.clouds import to_rows


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
    """Drop points of x (dense [B, N, C], or rows [M, C] with `batch` [M]) at rate p, 0 <= p < 1.

    `p` may be a 0-dim float32 tensor (the current rate of a schedule); `seed` is a 0-dim int64 tensor, drawn from
    torch's generator if it is not given. Raises ValueError for other values.
    """
    check("point", p, scaling)
    if not training or (isinstance(p, float | int) and p == 0):
        return x
    rows, ptr = to_rows(x, batch, batch_size)
    seed = as_seed(seed, x.device)
    return drop(rows, ptr, Noise("point", as_rate(p, x.device), seed, scaling=scaling)).view_as(x)
