"""What the implementations of lstm_sequence share: constants and empty outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator


def _fake_fwd(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, factor: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    frames, batch, columns = gx.shape
    hs = gx.new_empty((frames + 1, batch, columns // 4))
    gates = gx.new_empty((frames, batch, columns) if save else (0,))
    return hs, hs.new_empty(hs.shape, dtype=accumulator(gx.dtype)), gates


def _fake_bwd(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dh = cs.new_empty(cs.shape[1:])
    return torch.empty_like(gates), dh, torch.empty_like(dh)
