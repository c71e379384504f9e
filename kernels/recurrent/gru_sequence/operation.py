r"""A whole GRU layer in one direction, over time, with a compressed hidden matrix.

    r_t = sigmoid(gx_r + h' U_r),   z_t = sigmoid(gx_z + h' U_z),   h' = m * h_{t-1}
    n_t = tanh(gx_n + r_t * (h' U_n + b_n))      reset "after" the product: PyTorch's and cuDNN's
    n_t = tanh(gx_n + (r_t * h') U_n)            reset "before" it: Cho et al. 2014
    h_t = (1 - z_t) n_t + z_t h_{t-1}

[U_r U_z U_n] = sum_s A_s (x) C_s [H, 3 H], gates in PyTorch's order; gx [T, B, 3 H] is the input's part with its biases,
b_n [H] the hidden bias of n, which the first form needs apart. One matrix over [x; h] (the mega matrix of FDHT) adds the two
products before the reset can tell them apart: it expresses the second form alone. m is the recurrent dropout, as in
lstm_sequence; time, lengths and launches are as there. Saved are r, z, n, and for "after" the product that r multiplies.

Sources: Cho et al. 2014 (arXiv 1406.1078); the variants: Chung et al. 2014, cuDNN; recurrent dropout: Gal & Ghahramani 2016.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.recurrent.gru_sequence.columns import gate_columns
from dropfold.kernels.recurrent.kron.factors import reconstruct
from dropfold.kernels.recurrent.kron.products import weight_gradients
from dropfold.kernels.recurrent.sequence.dropout import draw_keep_scale, drop_units
from dropfold.kernels.recurrent.sequence.history import (
    active_rows,
    final_state,
    output_states,
    states_before,
)
from dropfold.kernels.recurrent.sequence.inputs import check_sequence, needs_grad


def reference(
    gx: Tensor,
    a: Tensor,
    c: Tensor,
    b_n: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    recurrent_dropout: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The specification of `gru_sequence`, with its arguments and returns: frame by frame, with U reconstructed.

    Plain torch, differentiable, for any dtype and device; nothing but the drop probability is checked.
    """
    (frames, batch, _), u = gx.shape, reconstruct(a, c).to(gx.dtype)
    u_r, u_z, u_n = u.chunk(3, -1)
    h = gx.new_zeros((batch, len(u))) if h0 is None else h0.to(gx.dtype)
    keep_scale = draw_keep_scale(recurrent_dropout, h, seed)
    if lengths is None:
        lengths = torch.full((batch,), frames, device=gx.device)
    out = [h] * frames
    for t in reversed(range(frames)) if reverse else range(frames):
        active = (t < lengths)[:, None]
        x_r, x_z, x_n = torch.where(active, gx[t], 0).chunk(3, -1)
        dropped_h = drop_units(h, keep_scale)
        r, z = (x_r + dropped_h @ u_r).sigmoid(), (x_z + dropped_h @ u_z).sigmoid()
        if b_n is None:
            n = (x_n + (r * dropped_h) @ u_n).tanh()
        else:
            n = (x_n + r * (dropped_h @ u_n + b_n)).tanh()
        new_h = (1 - z) * n + z * h
        h = torch.where(active, new_h, h)
        out[t] = torch.where(active, new_h, 0)
    return torch.stack(out), h


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


_fwd = operator(
    "gru_sequence_fwd(Tensor gx, Tensor a, Tensor c, Tensor? b_n, Tensor h0, Tensor? lengths, Tensor? keep_scale, "
    "bool reverse, bool save) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_fwd_outputs,
)

_bwd = operator(
    "gru_sequence_bwd(Tensor dout, Tensor dh_n, Tensor gates, Tensor hs, Tensor a, Tensor c, Tensor? b_n, "
    "Tensor? lengths, Tensor? keep_scale, bool reverse) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_bwd_outputs,
)


class _GRUSequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
        keep_scale: Tensor | None, reverse: bool, save: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        hs, gates = _fwd(gx, a, c, b_n, h0, lengths, keep_scale, reverse, save)
        ctx.save_for_backward(gates, hs, a, c, b_n, lengths, keep_scale)
        ctx.reverse = reverse
        return output_states(hs, lengths, reverse), final_state(hs, reverse)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
        gates, hs, a, c, b_n, lengths, keep_scale = ctx.saved_tensors
        h = drop_units(states_before(hs, ctx.reverse), keep_scale)
        dgates, dh = _bwd(dout, dh_n, gates, hs, a, c, b_n, lengths, keep_scale, ctx.reverse)
        dgates, hidden = dgates.to(hs.dtype), h.shape[2]
        da: Tensor | None
        if b_n is None:
            da, dc, db = *_gradients_with_reset_before(h, gates, dgates, a, c, lengths), None
        else:
            dr_dz, dproduct_n = dgates[..., : 2 * hidden], dgates[..., 3 * hidden :]
            dproducts = torch.cat([dr_dz, dproduct_n], -1)
            need_a = ctx.needs_input_grad[1]
            da, dc = weight_gradients(h.flatten(0, 1), dproducts.flatten(0, 1), a, c, need_a)
            db = dproduct_n.flatten(0, 1).sum(0)
        return dgates[..., : 3 * hidden], da, dc, db, dh.to(hs.dtype), None, None, None, None


def _gradients_with_reset_before(
    h: Tensor, gates: Tensor, dgates: Tensor, a: Tensor, c: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dA and dC if the reset stands before the product: U_r and U_z multiply h' [T, B, H], U_n multiplies r h'."""
    da, dc = torch.zeros_like(a), torch.zeros_like(c)
    hidden, active = h.shape[2], active_rows(lengths, len(h))
    reset_h = gates[..., :hidden] * h
    if active is not None:
        reset_h = reset_h.masked_fill(~active, 0)
    for start, stop, x in ((0, 2, h), (2, 3, reset_h.to(h.dtype))):
        dproduct = dgates[..., start * hidden : stop * hidden].flatten(0, 1).contiguous()
        gradients = weight_gradients(x.flatten(0, 1), dproduct, *gate_columns(a, c, start, stop))
        for target, gradient in zip(gate_columns(da, dc, start, stop), gradients):
            if gradient is not None:
                target += gradient
    return da, dc


def gru_sequence(
    gx: Tensor,
    a: Tensor,
    c: Tensor,
    b_n: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    recurrent_dropout: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer in one direction; see the head of this file for the formula.

    Args:
        gx: [T, B, 3 H], the input's part of the gates r, z, n with its biases.
        a, c: [S, p, u] and [S, q, v], p q = H, u v = 3 H; for a dense U ones [1, 1, 1] and U [1, H, 3 H].
        b_n: [H], inside the reset: the form "after"; None: the form "before".
        h0: first state [B, H]; default zeros.
        lengths: int64 [B], the frames of each row, 1 to T; default T. Later frames are not read, and out is 0 in them.
        reverse: from the last frame of each row to its first.
        recurrent_dropout: drop probability of the units of h before the products with U, the same ones at all steps.
        seed: of that dropout, int64, 0-dim; default drawn by torch.

    Returns:
        out [T, B, H], h_n [B, H]. out shares memory with what backward keeps: change a clone of it.

    Raises:
        ValueError: shapes do not fit, types differ outside autocast, u splits the gates, a length below 1 or above T, or a
            drop probability outside [0, 1).
    """
    hidden = check_sequence(gx, a, c, 3, h0, lengths, b_n=b_n)
    if b_n is None and a.shape[2] > 1 and a.shape[2] % 3:
        raise ValueError(
            "without b_n the columns of n stand apart, so u must be 1 or a multiple of 3, the gates its slowest part; got a "
            f"{list(a.shape)}."
        )
    if b_n is not None and b_n.shape != (hidden,):
        raise ValueError(f"b_n must be [{hidden}]; got {list(b_n.shape)}.")
    h0 = gx.new_zeros((gx.shape[1], hidden)) if h0 is None else h0.to(gx.dtype)
    keep_scale = draw_keep_scale(recurrent_dropout, h0, seed)
    lengths = None if lengths is None else lengths.contiguous()
    a, c = a.to(gx.dtype), c.to(gx.dtype)
    b_n = None if b_n is None else b_n.to(gx.dtype).contiguous()
    save = needs_grad(gx, a, c, b_n, h0)
    return _GRUSequence.apply(gx, a, c, b_n, h0, lengths, keep_scale, reverse, save)
