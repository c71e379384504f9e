"""The outputs of gru_sequence's two operators, empty: what its implementations fill, and what tracing sees."""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.backend.launch import accumulator


def empty_fwd_outputs(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    keep_scale: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The history of h, and of all steps r, z, n and, with b_n, the product that r multiplies (empty if not saved)."""
    frames, batch, columns = gx.shape
    hidden = columns // 3
    saved = (frames, batch, (3 if b_n is None else 4) * hidden) if save else (0,)
    hs = gx.new_empty((frames + 1, batch, hidden))
    return hs, hs.new_empty(saved, dtype=accumulator(gx.dtype))


def empty_bwd_outputs(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of what is saved, and of the first state."""
    return gates.new_empty(gates.shape), gates.new_empty(hs.shape[1:])
