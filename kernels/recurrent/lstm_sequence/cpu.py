"""lstm_sequence on the CPU: a loop over time in ATen, after what backward can compute for all steps at once."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.recurrent.kron.products import cheaper_product
from dropfold.kernels.recurrent.lstm_sequence.operation import empty_bwd_outputs, empty_fwd_outputs
from dropfold.kernels.recurrent.sequence.dropout import drop_units
from dropfold.kernels.recurrent.sequence.history import (
    active_rows,
    states_after,
    states_before,
    steps,
    update_active,
)


def lstm_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, keep_scale: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hs, cs, gates = empty_fwd_outputs(gx, a, c, h0, c0, lengths, keep_scale, reverse, save)
    frames, batch, _ = gx.shape
    u, active = cheaper_product(a, c, frames * batch), active_rows(lengths, frames)
    start = frames if reverse else 0
    hs[start], cs[start] = h0, c0
    for t, before, after in steps(frames, reverse):
        z = (gx[t] + u.multiply(drop_units(hs[before], keep_scale))).to(cs.dtype)
        i, f, g, o = _activate(z)
        torch.mul(f, cs[before], out=cs[after]).addcmul_(i, g)
        hs[after] = update_active(hs[before], o.mul(cs[after].tanh()), active, t)
        if active is not None:
            cs[after] = update_active(cs[before], cs[after], active, t)
        if save:
            gates[t] = z
    return hs, cs, gates


def lstm_sequence_bwd(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dz, dh, dc = empty_bwd_outputs(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, keep_scale, reverse)
    frames, batch, hidden = dout.shape
    u, active = cheaper_product(a, c, frames * batch), active_rows(lengths, frames)
    # dz of a step is linear in its dc (gates i, f, g) and dh (o): first the derivatives, which the loop multiplies.
    i, f, g, o = gates.to(cs.dtype).chunk(4, -1)
    tanh_c = states_after(cs, reverse).tanh()
    derivatives = (
        g * i * (1 - i),
        states_before(cs, reverse) * f * (1 - f),
        i * (1 - g * g),
        tanh_c * o * (1 - o),
    )
    torch.cat(derivatives, -1, out=dz)
    dc_per_dh = o * (1 - tanh_c * tanh_c)
    if active is not None:  # an inactive row has no output and no gates, and passes dh and dc on as they are
        dout, f = dout.masked_fill(~active, 0), f.masked_fill(~active, 1)
        dz.masked_fill_(~active, 0)
    dh.copy_(dh_n)
    dc.copy_(dc_n)
    for t, _, _ in steps(frames, not reverse):
        dh += dout[t]
        if active is None:
            dc.addcmul_(dh, dc_per_dh[t])
        else:  # an infinite dh of an inactive row stays out of its dc
            dc += torch.where(active[t], dh * dc_per_dh[t], 0)
        dz_of_gates = dz[t].view(-1, 4, hidden)
        dz_of_gates[:, :3] *= dc[:, None]
        dz_of_gates[:, 3] *= dh
        dh_before = u.multiply_transposed(dz[t].to(a.dtype)).to(dh.dtype)
        dh = update_active(dh, drop_units(dh_before, keep_scale), active, t)
        dc *= f[t]
    return dz, dh, dc


def _activate(z: Tensor) -> tuple[Tensor, ...]:
    """The gates, in place."""
    hidden = z.shape[-1] // 4
    z[..., : 2 * hidden].sigmoid_()
    z[..., 2 * hidden : 3 * hidden].tanh_()
    z[..., 3 * hidden :].sigmoid_()
    return z.chunk(4, -1)
