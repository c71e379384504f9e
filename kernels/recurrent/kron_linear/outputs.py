"""The outputs of kron_linear's two operators, empty: what its implementations fill, and what tracing sees."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.recurrent.kron.factors import right_first


def empty_fwd_outputs(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    """y, and t in a layout of the implementation's own."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    between = p * s * v if right_first(a, c) else q * s * u
    return a.new_empty((x.shape[0], u * v)), a.new_empty((x.shape[0], between))


def empty_bwd_outputs(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx (empty if not needed), dA, dC."""
    return a.new_empty(x.shape if need_x else (0,)), torch.empty_like(a), torch.empty_like(c)
