"""The empty outputs of norm_pool."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def empty_pools(y: Tensor, ptr: Tensor, scale: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The max [B, C], the row that has it (-1: none), and sums [B, 4, C] over the kept points of 1, a, a' and a' y_hat."""
    clouds, channels = ptr.shape[0] - 1, y.shape[1]
    maximum = scale.new_empty((clouds, channels))
    argmax = maximum.new_empty(maximum.shape, dtype=torch.int64)
    return maximum, argmax, scale.new_empty((clouds, 4, channels))
