"""What the implementations of kron_linear share: constants and empty outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.recurrent.kron.products import right_first


def _fake_fwd(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    """y, and t in an order of the implementation's own."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    between = p * s * v if right_first(a, c) else q * s * u
    return a.new_empty((x.shape[0], u * v)), a.new_empty((x.shape[0], between))


def _fake_bwd(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(x.shape if need_x else (0,)), torch.empty_like(a), torch.empty_like(c)
