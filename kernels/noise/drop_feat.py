r"""DropFeat: single features are dropped.

    out_(m, c) = scale * x_(m, c)   where u_(m C + c) >= p, else 0       (per = "element")
    out_(m, c) = scale * x_(m, c)   where u_(b C + c) >= p, else 0       (per = "channel": one for the whole cloud b)

u is the Philox number of kernels/noise/philox and scale = 1 / (1 - p), so that E[out] = x. The gradient is the same map,
drawn again from the seed: no mask is stored. For p = 0 and in evaluation the result is x itself.

Sources: dropout (Srivastava et al. 2014), SpatialDropout (Tompson et al. 2015); for point features arXiv 2103.15027.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dropfold.kernels.backend.inputs import check_tensors
from dropfold.kernels.noise import drop
from dropfold.kernels.noise.draw import Noise, Scaling, check, new_noise
from dropfold.kernels.points.clouds import ptr_to_batch, to_rows

Per = Literal["element", "channel"]


def reference(
    x: Tensor,
    p: float | Tensor,
    *,
    seed: Tensor | None = None,
    per: Per = "element",
    scaling: Scaling = "unbiased",
    training: bool = True,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """`drop_feat` in plain torch, with a stored mask: its specification. The same seed drops the same features."""
    if not training:
        return x
    noise = new_noise("feat", p, x.device, seed=seed, scaling=scaling)
    if per == "channel":
        return _drop_channels(drop.reference, x, noise, batch, batch_size)
    return drop.reference(x, noise, batch=batch, batch_size=batch_size)


def _drop_channels(
    multiply: Callable[..., Tensor], x: Tensor, noise: Noise, batch: Tensor | None, batch_size: int | None
) -> Tensor:
    """The noise of a tensor [B, C], one row for each cloud, on all points of the cloud."""
    rows, ptr = to_rows(x, batch, batch_size)
    scale = multiply(torch.ones((ptr.shape[0] - 1, x.shape[-1]), device=x.device), noise).to(x.dtype)
    return x * scale[:, None] if x.dim() == 3 else x * scale[ptr_to_batch(ptr, rows.shape[0])]


def drop_feat(
    x: Tensor,
    p: float | Tensor,
    *,
    seed: Tensor | None = None,
    per: Per = "element",
    scaling: Scaling = "unbiased",
    training: bool = True,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Drop features of x (dense [B, N, C], or rows [M, C] with `batch` [M]) with probability p, 0 <= p < 1.

    `p` may be a 0-dim float32 tensor (the current value of a schedule); `seed` is a 0-dim int64 tensor, drawn from
    torch's generator if it is not given. `scaling` is "unbiased" or "none". Raises ValueError for other values.
    """
    check("feat", p, scaling)
    check_tensors(x=x)
    if not training or (isinstance(p, float | int) and p == 0):
        return x
    noise = new_noise("feat", p, x.device, seed=seed, scaling=scaling)
    if per == "element":
        return drop.drop(x, noise, batch=batch, batch_size=batch_size)
    if per != "channel":
        raise ValueError(f"per must be 'element' or 'channel'; got {per!r}.")
    return _drop_channels(drop.drop, x, noise, batch, batch_size)
