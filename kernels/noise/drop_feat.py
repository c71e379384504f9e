r"""DropFeat: single features fall.

    out_(m, c) = scale * x_(m, c)   where u_(m C + c) >= p, else 0       (per = "element")
    out_(m, c) = scale * x_(m, c)   where u_(b C + c) >= p, else 0       (per = "channel": of the whole cloud b)

u is the Philox number of kernels/noise/philox.py and scale = 1 / (1 - p), so that E[out] = x. The gradient is the same map,
drawn again from the seed: no mask is stored. For p = 0 and in evaluation the result is x itself.

Sources: dropout (Srivastava et al. 2014), SpatialDropout (Tompson et al. 2015); for point features arXiv 2103.15027.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dropfold.kernels.noise.draw.operation import Noise, Scaling, as_rate, check
from dropfold.kernels.noise.elementwise.operation import drop
from dropfold.kernels.noise.philox.operation import as_seed, uniform
from dropfold.kernels.points.clouds import ptr_to_batch, to_rows


def drop_feat(
    x: Tensor,
    p: float | Tensor,
    *,
    seed: Tensor | None = None,
    per: Literal["element", "channel"] = "element",
    scaling: Scaling = "unbiased",
    training: bool = True,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Drop features of x (dense [B, N, C], or rows [M, C] with `batch` [M]) at rate p, 0 <= p < 1.

    `p` may be a 0-dim float32 tensor (the current rate of a schedule); `seed` is a 0-dim int64 tensor, drawn from
    torch's generator if it is not given. `scaling` is "unbiased" or "none". Raises ValueError for other values.
    """
    check("feat", p, scaling)
    if not training or (isinstance(p, float | int) and p == 0):
        return x
    rows, ptr = to_rows(x, batch, batch_size)
    rate = as_rate(p, x.device)
    seed = as_seed(seed, x.device)
    if per == "element":
        return drop(rows, ptr, Noise("feat", rate, seed, scaling=scaling)).view_as(x)
    if per != "channel":
        raise ValueError(f"per must be 'element' or 'channel'; got {per!r}.")
    clouds, channels = ptr.shape[0] - 1, x.shape[-1]
    kept = (uniform(seed, clouds * channels) >= rate).view(clouds, channels)
    factor = kept / (1 - rate) if scaling == "unbiased" else kept.float()
    factor = factor.to(x.dtype)
    return x * factor[:, None] if x.dim() == 3 else x * factor[ptr_to_batch(ptr, x.shape[0])]
