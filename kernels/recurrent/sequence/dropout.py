"""Recurrent dropout: the same units of h are dropped before the product with U at all steps of a sequence.

Source: variational dropout, Gal & Ghahramani 2016 (arXiv 1512.05287).
"""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.noise.philox.operation import as_seed, uniform


def draw_keep_scale(p: float, h: Tensor, seed: Tensor | None) -> Tensor | None:
    """What h [B, H] is multiplied by before its product: 0 or 1 / (1 - p), float32 [B, H]; None for p = 0.

    Number b H + i of the stream `seed` decides on unit i of row b: it is dropped if the number is below p.
    """
    if not 0 <= p < 1:
        raise ValueError(f"recurrent dropout must be at least 0 and below 1; got {p}.")
    if p == 0:
        return None
    return (uniform(as_seed(seed, h.device), h.numel()) >= p).view(h.shape) / (1 - p)


def drop_units(h: Tensor, keep_scale: Tensor | None) -> Tensor:
    """h [.., B, H] (or its gradient) times the keep scale."""
    return h if keep_scale is None else h * keep_scale.to(h.dtype)
