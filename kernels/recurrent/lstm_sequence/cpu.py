"""lstm_sequence on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.recurrent.kron.products import hidden_product
from dropfold.kernels.recurrent.lstm_sequence.outputs import _fake_bwd, _fake_fwd
from dropfold.kernels.recurrent.sequence.frames import after, before, steps, taking_part


def _activate(z: Tensor) -> tuple[Tensor, ...]:
    """The gates, in place."""
    hidden = z.shape[-1] // 4
    z[..., : 2 * hidden].sigmoid_()
    z[..., 2 * hidden : 3 * hidden].tanh_()
    z[..., 3 * hidden :].sigmoid_()
    return z.chunk(4, -1)


def lstm_sequence_fwd(
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


def lstm_sequence_bwd(
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
