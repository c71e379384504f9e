r"""A whole LSTM layer in one direction, over time, with a compressed hidden matrix.

    z_t = gx_t + (f * h_{t-1}) U,   U = sum_s A_s (x) C_s [H, 4 H],   gates i, f, g, o in PyTorch's order
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

gx [T, B, 4 H] is the input's part, biases included; f, 0 or 1 / (1 - p), the recurrent dropout of a unit, the same at all
steps. A dense U is A = 1 [1, 1, 1] and C = U [1, H, 4 H].

Forward is one launch and backward is one: a program takes some rows of the batch through all steps, no program waits for
another, and A and C (H 256, S 5, bf16: 12.5 KB) stay in the processor's cache. Backward walks back through

    dz = (dc g i (1 - i), dc c_{t-1} f (1 - f), dc i (1 - g^2), dh tanh(c) o (1 - o)),   dc += dh o (1 - tanh(c)^2),
    dh_{t-1} = f * (dz U^T),   dc_{t-1} = f dc

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
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import accumulator, cdiv
from dropfold.kernels.recurrent.kron import (
    flat_factors,
    hidden_product,
    rows_together,
    stages,
    weight_gradients,
)
from dropfold.kernels.recurrent.lstm_kernels import lstm_sequence_bwd_kernel, lstm_sequence_fwd_kernel
from dropfold.kernels.recurrent.sequence import (
    after,
    before,
    check_sequence,
    last,
    launch_options,
    multiplied,
    needs_grad,
    outputs,
    recurrent_factor,
    steps,
    taking_part,
    with_unit_stride,
)

# --- CPU ---------------------------------------------------------------------------------------------------------


def _activate(z: Tensor) -> tuple[Tensor, ...]:
    """The gates, in place."""
    hidden = z.shape[-1] // 4
    z[..., : 2 * hidden].sigmoid_()
    z[..., 2 * hidden : 3 * hidden].tanh_()
    z[..., 3 * hidden :].sigmoid_()
    return z.chunk(4, -1)


def _cpu_fwd(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, factor: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hs, cs, gates = _fake_fwd(gx, a, c, h0, c0, lengths, factor, reverse, save)
    frames = gx.shape[0]
    product, there = hidden_product(a, c, frames * gx.shape[1]), taking_part(lengths, frames)
    start = frames if reverse else 0
    hs[start], cs[start] = h0, c0
    for t, now, then in steps(frames, reverse):
        h = hs[now] if factor is None else hs[now] * factor.to(hs.dtype)
        i, f, g, o = _activate(z := (gx[t] + product(h)).to(cs.dtype))
        torch.mul(f, cs[now], out=cs[then]).addcmul_(i, g)
        h = o.mul(cs[then].tanh())
        if there is None:
            hs[then] = h
        else:
            hs[then] = torch.where(there[t], h, hs[now])
            cs[then] = torch.where(there[t], cs[then], cs[now])
        if save:
            gates[t] = z
    return hs, cs, gates


def _cpu_bwd(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dz, dh, dc = _fake_bwd(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, factor, reverse)
    frames, hidden = dout.shape[0], dout.shape[2]
    product, there = hidden_product(a, c, frames * dout.shape[1]), taking_part(lengths, frames)
    # What each dz is per unit of dc or dh, for all steps at once; the loop then only multiplies.
    i, f, g, o = gates.to(cs.dtype).chunk(4, -1)
    tanh_c = after(cs, reverse).tanh()
    torch.cat(
        [g * i * (1 - i), before(cs, reverse) * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)],
        -1,
        out=dz,
    )
    through = o * (1 - tanh_c * tanh_c)
    if there is not None:
        dz.masked_fill_(~there, 0)
    dh.copy_(dh_n)
    dc.copy_(dc_n)
    for t, _, _ in steps(frames, not reverse):
        if there is None:
            dh += dout[t]
            dc.addcmul_(dh, through[t])
        else:
            dh += torch.where(there[t], dout[t], 0)
            dc += torch.where(there[t], dh * through[t], 0)
        parts = dz[t].view(-1, 4, hidden)
        parts[:, :3] *= dc[:, None]
        parts[:, 3] *= dh
        back = product.back(dz[t].to(a.dtype)).to(dh.dtype)
        if factor is not None:
            back *= factor
        if there is None:
            dh = back
            dc *= f[t]
        else:
            dh = torch.where(there[t], back, dh)
            dc *= torch.where(there[t], f[t], 1)
    return dz, dh, dc


# --- Triton ------------------------------------------------------------------------------------------------------


def _launch_fwd(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, factor: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hs, cs, gates = _fake_fwd(gx, a, c, h0, c0, lengths, factor, reverse, save)
    frames, batch, columns = gx.shape
    (s, p, u), (_, q, v) = a.shape, c.shape
    start = frames if reverse else 0
    hs[start], cs[start] = h0, c0
    right, rows, between = stages(a, c)
    together = rows_together(batch, *rows)
    z = gx.new_empty((batch, columns), dtype=torch.float32)
    scratch = z.new_empty((batch, between))
    gx = with_unit_stride(gx)
    lstm_sequence_fwd_kernel[(cdiv(batch, together),)](
        *(gx, gx.stride(0), gx.stride(1), *flat_factors(a, c, right), factor, lengths),
        *(hs, cs, gates, z, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, SAVE=save,
        **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return hs, cs, gates


def _launch_bwd(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dz, dh, dc = _fake_bwd(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, factor, reverse)
    dh.copy_(dh_n)
    dc.copy_(dc_n)
    frames, batch, _ = dout.shape
    a, c = a.mT, c.mT
    (s, p, u), (_, q, v) = a.shape, c.shape
    right, rows, between = stages(a, c)
    together = rows_together(batch, *rows)
    back, scratch = torch.empty_like(dh), dh.new_empty((batch, between))
    dout = with_unit_stride(dout)
    lstm_sequence_bwd_kernel[(cdiv(batch, together),)](
        *(dout, dout.stride(0), dout.stride(1), gates, *flat_factors(a, c, right), factor, lengths),
        *(cs, dz, dh, dc, back, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return dz, dh, dc


# --- operators, autograd, public function ------------------------------------------------------------------------


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


_fwd = operator(
    "lstm_sequence_fwd(Tensor gx, Tensor a, Tensor c, Tensor h0, Tensor c0, Tensor? lengths, Tensor? factor, "
    "bool reverse, bool save) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_fwd,
    triton=_launch_fwd,
    fake=_fake_fwd,
)
_bwd = operator(
    "lstm_sequence_bwd(Tensor dout, Tensor dh_n, Tensor dc_n, Tensor gates, Tensor hs, Tensor cs, Tensor a, Tensor c, "
    "Tensor? lengths, Tensor? factor, bool reverse) -> (Tensor, Tensor, Tensor)",
    cpu=_cpu_bwd,
    triton=_launch_bwd,
    fake=_fake_bwd,
)


class _LSTMSequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None,
        factor: Tensor | None, reverse: bool, save: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        hs, cs, gates = _fwd(gx, a, c, h0, c0, lengths, factor, reverse, save)
        ctx.save_for_backward(gates, hs, cs, a, c, lengths, factor)
        ctx.reverse = reverse
        return *outputs(hs, lengths, reverse), last(cs, reverse).to(gx.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dh_n: Tensor, dc_n: Tensor) -> tuple[Tensor | None, ...]:
        gates, hs, cs, a, c, lengths, factor = ctx.saved_tensors
        h = multiplied(hs, factor, ctx.reverse).flatten(0, 1)
        dz, dh, dc = _bwd(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, factor, ctx.reverse)
        da, dc_factor = weight_gradients(h, dz.flatten(0, 1), a, c)
        return dz, da, dc_factor, dh.to(hs.dtype), dc.to(hs.dtype), None, None, None, None


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
        lengths: int64 [B], the frames of each row, 1 to T; default T. What comes after is not read, and out is 0 there.
        reverse: from the last frame of each row to its first.
        recurrent_dropout: share of the units of h that fall before the product with U, the same at all steps.
        seed: of that dropout; default drawn by torch.

    Returns:
        out [T, B, H], h_n [B, H], c_n [B, H].

    Raises:
        ValueError: shapes do not fit, a length below 1 or above T, or a rate outside [0, 1).
    """
    hidden = check_sequence(gx, a, c, 4, h0, lengths)
    h0 = gx.new_zeros((gx.shape[1], hidden)) if h0 is None else h0.to(gx.dtype)
    c0 = torch.zeros_like(h0) if c0 is None else c0.to(gx.dtype)
    if c0.shape != h0.shape:
        raise ValueError(f"c0 must have h0's shape {list(h0.shape)}; got {list(c0.shape)}.")
    factor = recurrent_factor(recurrent_dropout, gx.shape[1], hidden, gx, seed)
    lengths = None if lengths is None else lengths.contiguous()
    a, c = a.to(gx.dtype), c.to(gx.dtype)
    save = needs_grad(gx, a, c, h0, c0)
    return _LSTMSequence.apply(gx, a, c, h0, c0, lengths, factor, reverse, save)
