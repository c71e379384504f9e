"""The outputs of lstm_sequence's two operators, empty: what its implementations fill, and what tracing sees."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator


def empty_fwd_outputs(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, keep_scale: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Histories of h and c, and the gates of all steps (empty if not saved)."""
    frames, batch, columns = gx.shape
    hs = gx.new_empty((frames + 1, batch, columns // 4))
    gates = gx.new_empty((frames, batch, columns) if save else (0,))
    return hs, hs.new_empty(hs.shape, dtype=accumulator(gx.dtype)), gates


def empty_bwd_outputs(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dz [T, B, 4 H], and the gradients of the first states."""
    dh = cs.new_empty(cs.shape[1:])
    return torch.empty_like(gates), dh, torch.empty_like(dh)
