"""What the implementations of linear_norm_max share: constants and empty outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator


def _fake_max(x: Tensor, weight: Tensor, ptr: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    top = x.new_empty((ptr.shape[0] - 1, weight.shape[0]), dtype=accumulator(x.dtype))
    return top, top.new_empty(top.shape, dtype=torch.int64)


def _fake_sparse(g: Tensor, where: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=g.dtype), torch.empty_like(weight, dtype=g.dtype)
