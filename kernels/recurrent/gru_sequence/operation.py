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
from dropfold.kernels.recurrent.gru_sequence.outputs import _fake_bwd, _fake_fwd, gates_of
from dropfold.kernels.recurrent.kron.products import weight_gradients
from dropfold.kernels.recurrent.sequence.frames import (
    check_sequence,
    multiplied,
    needs_grad,
    outputs,
    recurrent_factor,
    taking_part,
)

_fwd = operator(
    "gru_sequence_fwd(Tensor gx, Tensor a, Tensor c, Tensor? b_n, Tensor h0, Tensor? lengths, Tensor? factor, "
    "bool reverse, bool save) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=_fake_fwd,
)


_bwd = operator(
    "gru_sequence_bwd(Tensor dout, Tensor dh_n, Tensor gates, Tensor hs, Tensor a, Tensor c, Tensor? b_n, "
    "Tensor? lengths, Tensor? factor, bool reverse) -> (Tensor, Tensor)",
    implementations=__package__,
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
