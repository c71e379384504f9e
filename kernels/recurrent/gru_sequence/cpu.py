"""gru_sequence on the CPU: a loop over time in ATen, after what backward can compute for all steps at once."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.recurrent.gru_sequence.columns import split_columns
from dropfold.kernels.recurrent.gru_sequence.operation import empty_bwd_outputs, empty_fwd_outputs
from dropfold.kernels.recurrent.kron.products import cheaper_product
from dropfold.kernels.recurrent.sequence.dropout import drop_units
from dropfold.kernels.recurrent.sequence.history import active_rows, states_before, steps, update_active


def gru_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    keep_scale: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    hs, gates = empty_fwd_outputs(gx, a, c, b_n, h0, lengths, keep_scale, reverse, save)
    (frames, batch, _), hidden = gx.shape, h0.shape[1]
    wide, active = accumulator(gx.dtype), active_rows(lengths, frames)
    u, u_n = (cheaper_product(*factors, frames * batch) for factors in split_columns(a, c, b_n is None))
    hs[frames if reverse else 0] = h0
    for t, before, after in steps(frames, reverse):
        h = drop_units(hs[before], keep_scale)
        x, product = gx[t].to(wide), u.multiply(h).to(wide)
        r, z = (x[:, : 2 * hidden] + product[:, : 2 * hidden]).sigmoid_().chunk(2, 1)
        x_n = x[:, 2 * hidden :]
        if b_n is None:
            n = (x_n + u_n.multiply((r * h).to(gx.dtype)).to(wide)).tanh_()
            saved = [r, z, n]
        else:
            product_n = product[:, 2 * hidden :] + b_n
            n = torch.addcmul(x_n, r, product_n).tanh_()
            saved = [r, z, n, product_n]
        h = torch.lerp(n, hs[before].to(wide), z)
        hs[after] = update_active(hs[before], h.to(hs.dtype), active, t)
        if save:
            torch.cat(saved, 1, out=gates[t])
    return hs, gates


def gru_sequence_bwd(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dgates, dh = empty_bwd_outputs(dout, dh_n, gates, hs, a, c, b_n, lengths, keep_scale, reverse)
    frames, batch, _ = dout.shape
    wide, active = dh.dtype, active_rows(lengths, frames)
    u, u_n = (cheaper_product(*factors, frames * batch) for factors in split_columns(a, c, b_n is None))
    r, z, n, *product_n = gates.to(wide).chunk(3 if b_n is None else 4, -1)
    h_before = states_before(hs, reverse).to(wide)
    # The gradients of a step are linear in its dh: first the derivatives, which the loop multiplies. r's is that of
    # what r multiplies: h' if the reset stands before the product, else the product.
    dn_per_dh, dz_per_dh = (1 - z) * (1 - n * n), (h_before - n) * z * (1 - z)
    dr_per_reset = r * (1 - r) * (drop_units(h_before, keep_scale) if b_n is None else product_n[0])
    dh.copy_(dh_n)
    for t, _, _ in steps(frames, not reverse):
        dh_after = dh + dout[t]
        dn, dz = dh_after * dn_per_dh[t], dh_after * dz_per_dh[t]
        if b_n is None:
            dreset = u_n.multiply_transposed(dn.to(a.dtype)).to(wide)
            drz = torch.cat([dreset * dr_per_reset[t], dz], 1)
            dh_before = u.multiply_transposed(drz.to(a.dtype)).to(wide).addcmul_(dreset, r[t])
            torch.cat([drz, dn], 1, out=dgates[t])
        else:
            drz, dproduct_n = torch.cat([dn * dr_per_reset[t], dz], 1), dn * r[t]
            dproduct = torch.cat([drz, dproduct_n], 1)
            dh_before = u.multiply_transposed(dproduct.to(a.dtype)).to(wide)
            torch.cat([drz, dn, dproduct_n], 1, out=dgates[t])
        dh_before = drop_units(dh_before, keep_scale).addcmul_(dh_after, z[t])
        dh = update_active(dh, dh_before, active, t)
    if active is not None:
        dgates.masked_fill_(~active, 0)
    return dgates, dh
