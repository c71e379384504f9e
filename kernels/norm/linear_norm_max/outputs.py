"""The empty outputs of linear_norm_max, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator


def empty_maximum(x: Tensor, weight: Tensor, ptr: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """The max [B, C_out] of x W^T, and the row that has it (-1: none)."""
    maximum = x.new_empty((ptr.shape[0] - 1, weight.shape[0]), dtype=accumulator(x.dtype))
    return maximum, maximum.new_empty(maximum.shape, dtype=torch.int64)


def empty_gradients(g: Tensor, argmax: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and the weight, of the max alone."""
    return torch.empty_like(x, dtype=g.dtype), torch.empty_like(weight, dtype=g.dtype)
