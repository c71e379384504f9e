r"""A whole LSTM layer in one direction, over time, with a compressed hidden matrix.

    z_t = gx_t + (m * h_{t-1}) U,   U = sum_s A_s (x) C_s [H, 4 H],   gates i, f, g, o in PyTorch's order
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

gx [T, B, 4 H] is the input's part, biases included; m, 0 or 1 / (1 - p) for each unit, is the recurrent dropout, the same
at all steps. A dense U is A = 1 [1, 1, 1] and C = U [1, H, 4 H].

Forward is one launch and backward is one: a program takes some rows of the batch through all steps, no program waits for
another, and A and C (H 256, S 5, bf16: 12.5 KB) stay in the processor's cache. Backward walks back through

    dz = (dc g i (1 - i), dc c_{t-1} f (1 - f), dc i (1 - g^2), dh tanh(c) o (1 - o)),   dc += dh o (1 - tanh(c)^2),
    dh_{t-1} = m * (dz U^T),   dc_{t-1} = f dc

from the saved gates, and the gradients of A and C are then GEMMs over all (t, b). State c and all sums are kept in float32
(float64 for itself).

Limits: one launch streams a *dense* U of large H (2,048: 16.8M numbers) from the L2 cache at every step; cuDNN is made
for that. No projection (proj_size), no peepholes.

Sources: Hochreiter & Schmidhuber 1997; persistent RNNs: Diamos et al. 2016; recurrent dropout: Gal & Ghahramani 2016.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.recurrent.kron.factors import reconstruct
from dropfold.kernels.recurrent.kron.products import weight_gradients
from dropfold.kernels.recurrent.sequence.dropout import draw_keep_scale, drop_units
from dropfold.kernels.recurrent.sequence.history import final_state, output_states, states_before
from dropfold.kernels.recurrent.sequence.inputs import check_sequence, needs_grad


def reference(
    gx: Tensor,
    a: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    recurrent_dropout: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The specification of `lstm_sequence`, with its arguments and returns: frame by frame, with U reconstructed.

    Plain torch, differentiable, for any dtype and device; nothing but the drop probability is checked.
    """
    (frames, batch, _), u = gx.shape, reconstruct(a, c).to(gx.dtype)
    h = gx.new_zeros((batch, len(u))) if h0 is None else h0.to(gx.dtype)
    cell = torch.zeros_like(h) if c0 is None else c0.to(gx.dtype)
    keep_scale = draw_keep_scale(recurrent_dropout, h, seed)
    if lengths is None:
        lengths = torch.full((batch,), frames, device=gx.device)
    out = [h] * frames
    for t in reversed(range(frames)) if reverse else range(frames):
        active = (t < lengths)[:, None]
        z = torch.where(active, gx[t], 0) + drop_units(h, keep_scale) @ u
        i, f, g, o = z.chunk(4, -1)
        new_cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        new_h = o.sigmoid() * new_cell.tanh()
        cell, h = torch.where(active, new_cell, cell), torch.where(active, new_h, h)
        out[t] = torch.where(active, new_h, 0)
    return torch.stack(out), h, cell


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


_fwd = operator(
    "lstm_sequence_fwd(Tensor gx, Tensor a, Tensor c, Tensor h0, Tensor c0, Tensor? lengths, Tensor? keep_scale, "
    "bool reverse, bool save) -> (Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=empty_fwd_outputs,
)

_bwd = operator(
    "lstm_sequence_bwd(Tensor dout, Tensor dh_n, Tensor dc_n, Tensor gates, Tensor hs, Tensor cs, Tensor a, Tensor c, "
    "Tensor? lengths, Tensor? keep_scale, bool reverse) -> (Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=empty_bwd_outputs,
)


class _LSTMSequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None,
        keep_scale: Tensor | None, reverse: bool, save: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        hs, cs, gates = _fwd(gx, a, c, h0, c0, lengths, keep_scale, reverse, save)
        ctx.save_for_backward(gates, hs, cs, a, c, lengths, keep_scale)
        ctx.reverse = reverse
        out, h_n = output_states(hs, lengths, reverse), final_state(hs, reverse)
        return out, h_n, final_state(cs, reverse).to(gx.dtype)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor, dh_n: Tensor, dc_n: Tensor) -> tuple[Tensor | None, ...]:
        gates, hs, cs, a, c, lengths, keep_scale = ctx.saved_tensors
        h = drop_units(states_before(hs, ctx.reverse), keep_scale)
        dz, dh, dc = _bwd(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, keep_scale, ctx.reverse)
        d_a, d_c = weight_gradients(h.flatten(0, 1), dz.flatten(0, 1), a, c, ctx.needs_input_grad[1])
        return dz, d_a, d_c, dh.to(hs.dtype), dc.to(hs.dtype), None, None, None, None


def lstm_sequence(
    gx: Tensor,
    a: Tensor,
    c: Tensor,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    recurrent_dropout: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer in one direction; see the head of this file for the formula.

    Args:
        gx: [T, B, 4 H], the input's part of the gates i, f, g, o with all biases.
        a, c: [S, p, u] and [S, q, v], p q = H, u v = 4 H; for a dense U ones [1, 1, 1] and U [1, H, 4 H].
        h0, c0: first states [B, H]; default zeros.
        lengths: int64 [B], the frames of each row, 1 to T; default T. Later frames are not read, and out is 0 in them.
        reverse: from the last frame of each row to its first.
        recurrent_dropout: drop probability of the units of h before the product with U, the same ones at all steps.
        seed: of that dropout, int64, 0-dim; default drawn by torch.

    Returns:
        out [T, B, H], h_n [B, H], c_n [B, H]. out shares memory with what backward keeps: change a clone of it.

    Raises:
        ValueError: shapes do not fit, types differ outside autocast, a length below 1 or above T, or a drop probability
            outside [0, 1).
    """
    hidden = check_sequence(gx, a, c, 4, h0, lengths, c0=c0)
    h0 = gx.new_zeros((gx.shape[1], hidden)) if h0 is None else h0.to(gx.dtype)
    c0 = torch.zeros_like(h0) if c0 is None else c0.to(gx.dtype)
    if c0.shape != h0.shape:
        raise ValueError(f"c0 must have h0's shape {list(h0.shape)}; got {list(c0.shape)}.")
    keep_scale = draw_keep_scale(recurrent_dropout, h0, seed)
    lengths = None if lengths is None else lengths.contiguous()
    a, c = a.to(gx.dtype), c.to(gx.dtype)
    save = needs_grad(gx, a, c, h0, c0)
    return _LSTMSequence.apply(gx, a, c, h0, c0, lengths, keep_scale, reverse, save)
