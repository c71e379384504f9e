r"""A linear layer whose weight is a sum of Kronecker products, and whose input may be bytes.

    y = x' W + bias,   W = sum_s A_s (x) C_s,   x' = scale x + shift
    Y = sum_s A_s^T X' C_s,   x' as X' [p, q], y as Y [u, v], A [S, p, u], C [S, q, v]

Two GEMMs, the cheaper order of the two: T_s = X' C_s and Y = sum_s A_s^T T_s (p q S v + p S u v multiply-adds), or A first.
Low rank W = P Q is A = P [S, M, 1], C = Q [S, 1, N]. A uint8 x is read as bytes and scaled on the way into the first
product, so that pixels are never stored as floats. With D_s = A_s dY:

    dC_s = X'^T D_s,   dA_s = T_s dY^T,   dX = scale sum_s D_s C_s^T,   dbias = sum dy

Forward keeps T (S v / q of x) for dA. Limit: x is read once in forward and once in backward; at video sizes (57,600 to
1,024, S 4) the first product is 85 % of the multiply-adds.

Sources: Kronecker-cut form of matrix networks: Van Loan & Pitsianis 1993; KCP-RNN: Wang et al. 2020 (arXiv 2008.09342).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import linear, product_dtype
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.inputs import check_floating, check_tensors, check_type_of
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.recurrent.kron.factors import (
    check_input,
    check_kron,
    is_dense,
    needs_scaling,
    reconstruct,
    right_first,
)


def reference(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None = None, *, scale: float = 1.0, shift: float = 0.0
) -> Tensor:
    """The specification of `kron_linear`, with its arguments: y = (scale x + shift) W + bias with W reconstructed.

    Plain torch, differentiable, for any dtype and device; nothing is checked.
    """
    y = (x.to(a.dtype) * scale + shift) @ reconstruct(a, c)
    return y if bias is None else y + bias


def empty_fwd_outputs(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    """y, and t in a layout of the implementation's own."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    between = p * s * v if right_first(a, c) else q * s * u
    return a.new_empty((x.shape[0], u * v)), a.new_empty((x.shape[0], between))


def empty_bwd_outputs(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx (empty if not needed), dA, dC."""
    return a.new_empty(x.shape if need_x else (0,)), torch.empty_like(a), torch.empty_like(c)


_fwd = operator(
    "kron_linear_fwd(Tensor x, Tensor a, Tensor c, Tensor? bias, float scale, float shift) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_fwd_outputs,
)

_bwd = operator(
    "kron_linear_bwd(Tensor dy, Tensor x, Tensor t, Tensor a, Tensor c, float scale, float shift, bool need_x) "
    "-> (Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=empty_bwd_outputs,
)


class _KronLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
    ) -> Tensor:
        y, t = _fwd(x, a, c, bias, scale, shift)
        ctx.save_for_backward(x, t, a, c)
        ctx.options = (scale, shift)
        return y

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dy = dy.contiguous()
        dx, da, dc = _bwd(dy, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad[0])
        dbias = dy.sum(0) if ctx.needs_input_grad[3] else None
        return dx if ctx.needs_input_grad[0] else None, da, dc, dbias, None, None


def kron_linear(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None = None, *, scale: float = 1.0, shift: float = 0.0
) -> Tensor:
    """Linear layer with W = sum_s a_s (x) c_s; see the head of this file for the formula.

    Args:
        x: [..., p q], floating point, or uint8 (read as bytes, and never stored as floats).
        a, c: [S, p, u] and [S, q, v].
        bias: [u v] or None.
        scale, shift: the layer sees scale x + shift.

    Returns:
        [..., u v], in the type of a (under autocast, in its type).

    Raises:
        ValueError: shapes do not fit, x has no rows, or, outside autocast, types differ.
        TypeError: x is neither floating point nor uint8.
    """
    rows, columns = check_kron(a, c)
    check_input(x, rows)
    check_tensors(x=x, a=a)
    check_floating(a=a, bias=bias)
    check_type_of("a", a, x=x, c=c, bias=bias)
    if bias is not None and bias.shape != (columns,):
        raise ValueError(f"bias must be [{columns}]; got {describe(bias)}.")
    dtype = product_dtype(a)
    flat = x.reshape(-1, rows).contiguous()
    flat = flat if flat.dtype == torch.uint8 else flat.to(dtype)
    bias = None if bias is None else bias.to(dtype).contiguous()
    if is_dense(a):  # a plain linear layer
        if needs_scaling(x, scale, shift):
            flat = flat.to(dtype) * scale + shift
        y = linear(flat, (a * c)[0].T.to(dtype), bias)
    else:
        y = _KronLinear.apply(flat, a.to(dtype), c.to(dtype), bias, float(scale), float(shift))
    return y.view(*x.shape[:-1], columns)
