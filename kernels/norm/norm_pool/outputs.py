"""What the implementations of norm_pool share: constants and empty outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _fake_pool(y: Tensor, ptr: Tensor, scale: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    clouds, channels = ptr.shape[0] - 1, y.shape[1]
    best = scale.new_empty((clouds, channels))
    return best, best.new_empty(best.shape, dtype=torch.int64), scale.new_empty((clouds, 4, channels))
