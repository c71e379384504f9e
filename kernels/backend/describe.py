"""How error messages name a tensor."""

from __future__ import annotations

from torch import Tensor


def describe(x: Tensor) -> str:
    """Shape and type of a tensor: `[2, 8, 3] float32`."""
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}"
