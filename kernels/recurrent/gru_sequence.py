r"""A whole GRU layer in one direction, over time, with a compressed hidden matrix.

    r_t = sigmoid(gx_r + h' U_r),   z_t = sigmoid(gx_z + h' U_z),   h' = f * h_{t-1}
    n_t = tanh(gx_n + r_t * (h' U_n + b_n))      reset "after" the product: PyTorch's and cuDNN's
    n_t = tanh(gx_n + (r_t * h') U_n)            reset "before" it: Cho et al. 2014
    h_t = (1 - z_t) n_t + z_t h_{t-1}

[U_r U_z U_n] = sum_s A_s (x) C_s [H, 3 H], gates in PyTorch's order; gx [T, B, 3 H] is the input's part with its biases,
b_n [H] the hidden bias of n, which the first form needs apart. One matrix over [x; h] (the mega matrix of FDHT) adds the two
products before the reset can tell them apart: it expresses the second form alone. f is the recurrent dropout, as in
lstm_sequence; so are time, lengths, launches, and what is saved (r, z, n, and for "after" the product that r multiplies).

Sources: Cho et al. 2014 (arXiv 1406.1078); the variants: Chung et al. 2014, cuDNN; recurrent dropout: Gal & Ghahramani 2016.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import accumulator, cdiv
from dropfold.kernels.recurrent.gru_kernels import gru_sequence_bwd_kernel, gru_sequence_fwd_kernel
from dropfold.kernels.recurrent.kron import (
    flat_factors,
    hidden_product,
    rows_together,
    stages,
    weight_gradients,
)
from dropfold.kernels.recurrent.sequence import (
    before,
    check_sequence,
    launch_options,
    multiplied,
    needs_grad,
    outputs,
    recurrent_factor,
    steps,
    taking_part,
    with_unit_stride,
)


def gates_of(a: Tensor, c: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The factors of columns start H .. stop H of [H, 3 H]; the gate is the slowest part of the first output mode."""
    if a.shape[2] % 3 == 0:
        third = a.shape[2] // 3
        return a[:, :, start * third : stop * third], c
    third = c.shape[2] // 3
    return a, c[:, :, start * third : stop * third]


# --- CPU ---------------------------------------------------------------------------------------------------------


def _cpu_fwd(
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


def _cpu_bwd(
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


# --- Triton ------------------------------------------------------------------------------------------------------


def _launch_fwd(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    factor: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    hs, gates = _fake_fwd(gx, a, c, b_n, h0, lengths, factor, reverse, save)
    frames, batch, _ = gx.shape
    hs[frames if reverse else 0] = h0
    outer, new = gates_of(a, c, 0, 2) if b_n is None else (a, c), gates_of(a, c, 2, 3)
    (right, rows, between), (right_n, rows_n, between_n) = stages(*outer), stages(*new)
    together = rows_together(batch, *rows, *(rows_n if b_n is None else ()))
    (s, p, u), (_, q, v) = (t.shape for t in outer)
    z = gx.new_empty((batch, u * v), dtype=torch.float32)
    n, reset = (z.new_empty((batch, p * q)) for _ in range(2))
    scratch = z.new_empty((batch, max(between, between_n)))
    gx = with_unit_stride(gx)
    gru_sequence_fwd_kernel[(cdiv(batch, together),)](
        *(gx, gx.stride(0), gx.stride(1), *flat_factors(*outer, right), *flat_factors(*new, right_n), b_n, factor),
        *(lengths, hs, gates, z, n, reset, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, U_N=new[0].shape[2], V_N=new[1].shape[2],
        RIGHT_N=right_n, AFTER=int(b_n is not None), SAVE=save, **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return hs, gates


def _launch_bwd(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dz, dh = _fake_bwd(dout, dh_n, gates, hs, a, c, b_n, lengths, factor, reverse)
    dh.copy_(dh_n)
    frames, batch, _ = dout.shape
    outer, new = gates_of(a, c, 0, 2) if b_n is None else (a, c), gates_of(a, c, 2, 3)
    outer, new = (outer[0].mT, outer[1].mT), (new[0].mT, new[1].mT)
    (right, rows, between), (right_n, rows_n, between_n) = stages(*outer), stages(*new)
    together = rows_together(batch, *rows, *(rows_n if b_n is None else ()))
    (s, p, u), (_, q, v) = (t.shape for t in outer)
    grad, reset, back = (torch.empty_like(dh) for _ in range(3))
    product = dh.new_empty((batch, p * q))
    scratch = dh.new_empty((batch, max(between, between_n)))
    dout = with_unit_stride(dout)
    gru_sequence_bwd_kernel[(cdiv(batch, together),)](
        *(dout, dout.stride(0), dout.stride(1), gates, *flat_factors(*outer, right), *flat_factors(*new, right_n)),
        *(factor, lengths, hs, dz, dh, grad, product, reset, back, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, P_N=new[0].shape[1], Q_N=new[1].shape[1],
        RIGHT_N=right_n, AFTER=int(b_n is not None), **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return dz, dh


# --- operators, autograd, public function ------------------------------------------------------------------------


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


_fwd = operator(
    "gru_sequence_fwd(Tensor gx, Tensor a, Tensor c, Tensor? b_n, Tensor h0, Tensor? lengths, Tensor? factor, "
    "bool reverse, bool save) -> (Tensor, Tensor)",
    cpu=_cpu_fwd,
    triton=_launch_fwd,
    fake=_fake_fwd,
)
_bwd = operator(
    "gru_sequence_bwd(Tensor dout, Tensor dh_n, Tensor gates, Tensor hs, Tensor a, Tensor c, Tensor? b_n, "
    "Tensor? lengths, Tensor? factor, bool reverse) -> (Tensor, Tensor)",
    cpu=_cpu_bwd,
    triton=_launch_bwd,
    fake=_fake_bwd,
)


class _GRUSequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
        factor: Tensor | None, reverse: bool, save: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        hs, gates = _fwd(gx, a, c, b_n, h0, lengths, factor, reverse, save)
        ctx.save_for_backward(gates, hs, a, c, b_n, lengths, factor)
        ctx.reverse = reverse
        return outputs(hs, lengths, reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dh_n: Tensor) -> tuple[Tensor | None, ...]:
        gates, hs, a, c, b_n, lengths, factor = ctx.saved_tensors
        h = multiplied(hs, factor, ctx.reverse)
        dz, dh = _bwd(dout, dh_n, gates, hs, a, c, b_n, lengths, factor, ctx.reverse)
        dz, hidden = dz.to(hs.dtype), h.shape[2]
        rows, flat = h.flatten(0, 1), dz.flatten(0, 1)
        db = None
        if b_n is None:
            da, dc = torch.zeros_like(a), torch.zeros_like(c)
            reset, there = gates[..., :hidden] * h, taking_part(lengths, len(h))
            reset = reset if there is None else reset.masked_fill_(~there, 0)
            reset = reset.to(h.dtype).flatten(0, 1)
            for start, stop, x in ((0, 2, rows), (2, 3, reset)):
                (part_a, part_c), into = gates_of(a, c, start, stop), gates_of(da, dc, start, stop)
                found = weight_gradients(
                    x, flat[:, start * hidden : stop * hidden].contiguous(), part_a, part_c
                )
                for target, gradient in zip(into, found):
                    target += gradient
        else:
            products = torch.cat([flat[:, : 2 * hidden], flat[:, 3 * hidden :]], 1)
            da, dc = weight_gradients(rows, products, a, c)
            db = flat[:, 3 * hidden :].sum(0)
        return dz[..., : 3 * hidden], da, dc, db, dh.to(hs.dtype), None, None, None, None


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
        lengths: int64 [B], the frames of each row, 1 to T; default T. What comes after is not read, and out is 0 there.
        reverse: from the last frame of each row to its first.
        recurrent_dropout: share of the units of h that fall before the products with U, the same at all steps.
        seed: of that dropout; default drawn by torch.

    Returns:
        out [T, B, H], h_n [B, H].

    Raises:
        ValueError: shapes do not fit, u splits the gates, a length below 1 or above T, or a rate outside [0, 1).
    """
    hidden = check_sequence(gx, a, c, 3, h0, lengths)
    if b_n is None and a.shape[2] > 1 and a.shape[2] % 3:
        raise ValueError(
            "without b_n the columns of n stand apart, so u must be 1 or a multiple of 3, the gates its slowest part; got a "
            f"{list(a.shape)}."
        )
    if b_n is not None and b_n.shape != (hidden,):
        raise ValueError(f"b_n must be [{hidden}]; got {list(b_n.shape)}.")
    h0 = gx.new_zeros((gx.shape[1], hidden)) if h0 is None else h0.to(gx.dtype)
    factor = recurrent_factor(recurrent_dropout, gx.shape[1], hidden, gx, seed)
    lengths = None if lengths is None else lengths.contiguous()
    a, c = a.to(gx.dtype), c.to(gx.dtype)
    b_n = None if b_n is None else b_n.to(gx.dtype).contiguous()
    save = needs_grad(gx, a, c, b_n, h0)
    return _GRUSequence.apply(gx, a, c, b_n, h0, lengths, factor, reverse, save)
