"""What the implementations of gru_sequence share: constants and empty outputs."""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.backend.launch import accumulator


def gates_of(a: Tensor, c: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The factors of columns start H .. stop H of [H, 3 H]; the gate is the slowest part of the first output mode."""
    if a.shape[2] % 3 == 0:
        third = a.shape[2] // 3
        return a[:, :, start * third : stop * third], c
    third = c.shape[2] // 3
    return a, c[:, :, start * third : stop * third]


def _fake_fwd(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    factor: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    frames, batch, columns = gx.shape
    hidden = columns // 3
    saved = (frames, batch, (3 if b_n is None else 4) * hidden)
    return gx.new_empty((frames + 1, batch, hidden)), gx.new_empty(
        saved if save else (0,), dtype=accumulator(gx.dtype)
    )


def _fake_bwd(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return gates.new_empty(gates.shape), gates.new_empty(hs.shape[1:])
