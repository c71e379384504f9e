"""Tensors in messages."""

from __future__ import annotations

from torch import Tensor


def describe(x: Tensor) -> str:
    """Shape and type of a tensor, for messages."""
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}"
