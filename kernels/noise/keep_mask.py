"""One draw of noise as masks in torch: what the plain forms multiply by, and what they leave out of a max.

The fused operations draw the same numbers inside their kernels (see `dropfold.kernels.noise.draw`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.noise.draw.drawn import ELEMENTS
from dropfold.kernels.noise.draw.operation import Noise, draw
from dropfold.kernels.noise.philox.operation import uniform
from dropfold.kernels.points.clouds import to_rows


def apply_noise(
    x: Tensor, noise: Noise | None, batch: Tensor | None = None, batch_size: int | None = None
) -> Tensor:
    """x, dense [B, N, C] or rows [M, C] with `batch` [M], times its scaled keep mask; unchanged without noise."""
    if noise is None:
        return x
    rows, ptr = to_rows(x, batch, batch_size)
    return (rows * scaled_keep_mask(noise, ptr, *rows.shape).to(x.dtype)).view_as(x)


def keep_mask(noise: Noise, ptr: Tensor, rows: int, channels: int) -> Tensor:
    """Which features of x [rows, channels] are kept: bool [rows, channels], or [rows, 1] where points are dropped whole."""
    return scaled_keep_mask(noise, ptr, rows, channels) > 0


def scaled_keep_mask(noise: Noise, ptr: Tensor, rows: int, channels: int) -> Tensor:
    """What the noise multiplies x [rows, channels] by: 0 where dropped, else the scale of `noise.scaling`.

    float32 [rows, channels], or [rows, 1] where points are dropped whole. `ptr` [B + 1] are the row offsets of the clouds.
    """
    mode, of_rows, rate, scale, seed = draw(noise, ptr, rows)
    if mode == ELEMENTS:
        kept = uniform(seed, rows * channels).view(rows, channels) >= rate
        return torch.where(kept, scale, 0.0)
    return of_rows[:, None]
