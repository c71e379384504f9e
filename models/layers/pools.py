"""The pools of the plain forms, and clouds set side by side for them.

The modules have no parameters, so they add nothing to a state dict.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropfold.kernels import Noise
from dropfold.kernels.noise.draw import keep_mask
from dropfold.kernels.norm import plain
from dropfold.kernels.points.clouds import local_idx, to_rows


class MaxPool(nn.Module):
    """Max over dimension 1 of z [B, N, C], over the entries that a mask (bool, like z) keeps; 0 where it keeps none."""

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked_max(z, mask)[0]


class MaxMeanPool(nn.Module):
    """Max and mean over dimension 1 of z [B, N, C], over the entries that a mask keeps; 0 where it keeps none."""

    def forward(self, z: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        top = masked_max(z, mask)[0]
        if mask is None:
            return top, z.sum(1) if not z.shape[1] else z.mean(1)
        mask = mask.expand_as(z)
        return top, torch.where(mask, z, 0).sum(1) / mask.sum(1).clamp(min=1)


def masked_max(z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`(max, argmax)` [B, C] over dimension 1; of equal entries the first. With an empty mask they are 0 and -1."""
    if not z.shape[1]:  # no points
        return z.sum(1), torch.full_like(z.sum(1), -1, dtype=torch.int64)
    if mask is None:
        top, argmax = z.max(1)
        return top, argmax
    return plain.masked_max(z, mask.expand_as(z), 1)


class Clouds:
    """Rows [M, C] set side by side as [B, N, C], N being the points of the largest cloud, and the masks for them."""

    def __init__(self, x: Tensor, batch: Tensor | None, batch_size: int | None) -> None:
        """The clouds are those of x, dense [B, N, C] or rows [M, C] with `batch` [M]."""
        rows, self.ptr = to_rows(x, batch, batch_size)
        self.like, self.rows = x, len(rows)
        self.shape = x.shape[:2] if x.dim() == 3 else (1, len(rows))
        self.idx: Tensor | None = None
        self.inside: Tensor | None = None
        if batch is not None:
            self.idx, inside = plain.pad_segments(self.ptr)
            self.inside = inside[..., None]

    def stack(self, values: Tensor) -> Tensor:
        """Of values [M, C] of the points: [B, N, C]."""
        return values.view(*self.shape, values.shape[1]) if self.idx is None else values[self.idx]

    def mask(self, noise: Noise | None, channels: int) -> Tensor | None:
        """Which of the stacked values exist and are kept: bool [B, N, C or 1]; None where all are."""
        if noise is None:
            return self.inside
        kept = self.stack(keep_mask(noise, self.ptr, self.rows, channels))
        return kept if self.inside is None else kept & self.inside

    def points(self, argmax: Tensor) -> Tensor:
        """The point numbers of places [B, C] in the stacked values: within the cloud for dense clouds, else row numbers."""
        rows = torch.where(argmax < 0, -1, argmax + self.ptr[:-1, None])
        return local_idx(rows, self.ptr, self.like)
