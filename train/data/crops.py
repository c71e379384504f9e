"""Random augmentation of a batch of images: a window of a padded image, and mirroring.

One generator serves the whole batch, so the result does not depend on how many processes share the batch, nor on what ran
before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def crop_and_flip(pixels: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Images [n, H, W, C] of the same size, each cut at random from itself with `padding` zeros on every side; with `flip`
    one in two is mirrored, left and right (He et al. 2016, section 4.2)."""
    n, H, W, _ = pixels.shape
    down, right = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)
    mirrored = (torch.rand(n, 1, generator=generator) < 0.5) & flip
    column = torch.arange(W).expand(n, W)
    column = torch.where(mirrored, W - 1 - column, column)
    padded = nn.functional.pad(pixels, (0, 0, padding, padding, padding, padding))
    rows, columns = torch.arange(H) + down, column + right
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
