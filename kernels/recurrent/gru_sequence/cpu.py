"""gru_sequence on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.recurrent.gru_sequence.outputs import _fake_bwd, _fake_fwd, gates_of
from dropfold.kernels.recurrent.kron.products import hidden_product
from dropfold.kernels.recurrent.sequence.frames import before, steps, taking_part


def gru_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    factor: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    hs, gates = _fake_fwd(gx, a, c, b_n, h0, lengths, factor, reverse, save)
    (frames, batch, _), hidden = gx.shape, h0.shape[1]
    wide, there = accumulator(gx.dtype), taking_part(lengths, frames)
    both = hidden_product(*(gates_of(a, c, 0, 2) if b_n is None else (a, c)), frames * batch)
    new = hidden_product(*gates_of(a, c, 2, 3), frames * batch)
    hs[frames if reverse else 0] = h0
    for t, now, then in steps(frames, reverse):
        h = hs[now] if factor is None else hs[now] * factor.to(hs.dtype)
        x, product = gx[t].to(wide), both(h).to(wide)
        r, z = (x[:, : 2 * hidden] + product[:, : 2 * hidden]).sigmoid_().chunk(2, 1)
        if b_n is None:
            inner = new((r * h).to(gx.dtype)).to(wide)
            n = (x[:, 2 * hidden :] + inner).tanh_()
        else:
            inner = product[:, 2 * hidden :] + b_n
            n = torch.addcmul(x[:, 2 * hidden :], r, inner).tanh_()
        h = torch.lerp(n, hs[now].to(wide), z)
        hs[then] = h if there is None else torch.where(there[t], h.to(hs.dtype), hs[now])
        if save:
            torch.cat([r, z, n, *([] if b_n is None else [inner])], 1, out=gates[t])
    return hs, gates


def gru_sequence_bwd(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dz, dh = _fake_bwd(dout, dh_n, gates, hs, a, c, b_n, lengths, factor, reverse)
    frames, batch, _ = dout.shape
    there, rows = taking_part(lengths, frames), frames * batch
    both = hidden_product(*(gates_of(a, c, 0, 2) if b_n is None else (a, c)), rows)
    new = hidden_product(*gates_of(a, c, 2, 3), rows)
    wide = dh.dtype
    r, z, n, *inner = gates.to(wide).chunk(3 if b_n is None else 4, -1)
    old = before(hs, reverse).to(wide)
    kept = old if factor is None else old * factor
    dh.copy_(dh_n)
    # What the gradients are per unit of dh (of the product's, for r in the second form), for all steps at once.
    of_n, of_z = (1 - z) * (1 - n * n), (old - n) * z * (1 - z)
    of_r = r * (1 - r) * (kept if b_n is None else inner[0])
    for t, _, _ in steps(frames, not reverse):
        grad = dh + dout[t]
        dn = grad * of_n[t]
        if b_n is None:
            reset = new.back(dn.to(a.dtype)).to(wide)
            dr = reset * of_r[t]
        else:
            dr = dn * of_r[t]
        outer = torch.cat([dr, grad * of_z[t]], 1)
        if b_n is None:
            back = both.back(outer.to(a.dtype)).to(wide).addcmul_(reset, r[t])
            parts = [outer, dn]
        else:
            inner_n = dn * r[t]
            back = both.back(torch.cat([outer, inner_n], 1).to(a.dtype)).to(wide)
            parts = [outer, dn, inner_n]
        if factor is not None:
            back *= factor
        back.addcmul_(grad, z[t])
        found = torch.cat(parts, 1)
        if there is not None:
            found.masked_fill_(~there[t], 0)
            back = torch.where(there[t], back, dh)
        dz[t], dh = found, back
    return dz, dh
