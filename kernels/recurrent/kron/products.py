"""Sums of Kronecker products, W = sum_s A_s (x) C_s, as two GEMMs: what kron_linear and the sequences share.

    y = x W:   Y = sum_s A_s^T X C_s,   x as X [p, q], y as Y [u, v], A [S, p, u], C [S, q, v]

`right` contracts q first, T[i, s, k] = sum_j X[i, j] C[s, j, k], and then p and s: p q S v + p S u v multiply-adds. The
other order is the same with the two sides exchanged, Y^T = sum_s C_s^T X^T A_s. A dense W is A = 1 [1, 1, 1], C = W.

`Order` runs on ATen; `kron_product` is the same inside a Triton kernel, for some rows of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import gram, mm


def check_kron(a: Tensor, c: Tensor) -> tuple[int, int]:
    """Refuse factors that do not fit; returns the shape of W."""
    if a.dim() != 3 or c.dim() != 3 or a.shape[0] != c.shape[0]:
        raise ValueError(
            "a must be [S, p, u] and c [S, q, v] with one S, the terms of sum_s a_s (x) c_s; got a "
            f"{describe(a)} and c {describe(c)}."
        )
    return a.shape[1] * c.shape[1], a.shape[2] * c.shape[2]


def check_input(x: Tensor, columns: int) -> None:
    """Refuse what cannot be multiplied by a matrix of so many rows."""
    if x.shape[-1] != columns or 0 in x.shape:
        raise ValueError(f"x must be [..., {columns}], with a row at least; got {describe(x)}.")
    if not x.is_floating_point() and x.dtype != torch.uint8:
        raise TypeError(f"x must be floating point or uint8; got {describe(x)}.")


def scaled(x: Tensor, scale: float, shift: float) -> bool:
    """Whether x differs from scale x + shift as a floating point number."""
    return not x.is_floating_point() or scale != 1 or shift != 0


def macs(a: Tensor, c: Tensor, right: bool) -> int:
    """Multiply-adds for one x."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    return s * (p * q * v + p * u * v if right else p * q * u + u * q * v)


def right_first(a: Tensor, c: Tensor) -> bool:
    """Whether contracting with C first is the cheaper order."""
    return macs(a, c, True) <= macs(a, c, False)


def is_dense(a: Tensor) -> bool:
    """A [1, 1, 1]: W is C times a number."""
    return a.numel() == 1


class Order:
    """Both products, their transposes and the gradients of A and C; x [n, p q], y [n, u v], t [n, v, p S] between them.

    So both are GEMMs over all rows. For the left order everything here is of the exchanged problem, whose X and Y are the
    transposes.
    """

    def __init__(self, a: Tensor, c: Tensor, right: bool) -> None:
        self.right = right
        if not right:
            a, c = c, a
        (self.s, self.p, self.u), (_, self.q, self.v) = a.shape, c.shape
        self.first = c.permute(1, 0, 2).reshape(self.q, self.s * self.v)
        self.second = a.permute(1, 0, 2).reshape(self.p * self.s, self.u)

    def __call__(self, x: Tensor) -> Tensor:
        """x W."""
        return self.finish(self.begin(x))

    def begin(self, x: Tensor) -> Tensor:
        """t, the first product; not contiguous."""
        return mm(self._rows(x), self.first).view(-1, self.p * self.s, self.v).mT

    def finish(self, t: Tensor) -> Tensor:
        """y, the second product."""
        y = mm(t.reshape(-1, self.p * self.s), self.second).view(-1, self.v, self.u)
        return (y.mT if self.right else y).reshape(y.shape[0], -1)

    def finish_back(self, dy: Tensor) -> Tensor:
        """The gradient of t."""
        return mm(self._columns(dy), self.second.T).view(-1, self.v, self.p * self.s)

    def begin_back(self, dt: Tensor) -> Tensor:
        """The gradient of x."""
        dx = mm(self._between(dt), self.first.T).view(-1, self.p, self.q)
        return (dx if self.right else dx.mT).reshape(dx.shape[0], -1)

    def back(self, dy: Tensor) -> Tensor:
        """dy W^T."""
        return self.begin_back(self.finish_back(dy))

    def gradient_first(self, x: Tensor, dt: Tensor) -> Tensor:
        """The gradient of `first`."""
        return gram(self._rows(x), self._between(dt))

    def gradient_second(self, t: Tensor, dy: Tensor) -> Tensor:
        """The gradient of `second`."""
        return gram(t.reshape(-1, self.p * self.s), self._columns(dy))

    def gradients(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of A and C from those of `first` and `second`."""
        dc = first.view(self.q, self.s, self.v).permute(1, 0, 2).contiguous()
        da = second.view(self.p, self.s, self.u).permute(1, 0, 2).contiguous()
        return (da, dc) if self.right else (dc, da)

    def _rows(self, x: Tensor) -> Tensor:
        """X's rows [n p, q]."""
        return (x if self.right else x.view(-1, self.q, self.p).mT).reshape(-1, self.q)

    def _columns(self, dy: Tensor) -> Tensor:
        """Y's columns [n v, u]."""
        return (dy.view(-1, self.u, self.v).mT if self.right else dy).reshape(-1, self.u)

    def _between(self, dt: Tensor) -> Tensor:
        """t in the order that the first product leaves it in, [n p, S v]."""
        return dt.mT.reshape(-1, self.s * self.v)


class Dense:
    """The same interface with W reconstructed."""

    def __init__(self, a: Tensor, c: Tensor) -> None:
        self.a, self.c = a, c
        (_, p, u), (_, q, v) = a.shape, c.shape
        self.weight = torch.einsum("spu,sqv->pquv", a, c).reshape(p * q, u * v)

    def __call__(self, x: Tensor) -> Tensor:
        return mm(x, self.weight)

    def back(self, dy: Tensor) -> Tensor:
        return mm(dy, self.weight.T)


def hidden_product(a: Tensor, c: Tensor, uses: int) -> Order | Dense:
    """What multiplies h [n, H] by W `uses` times over: one GEMM where two smaller ones save too little."""
    (_, p, u), (_, q, v) = a.shape, c.shape
    dense = p * q * u * v
    right = right_first(a, c)
    reconstruction = a.shape[0] * dense / max(1, uses)
    return Dense(a, c) if dense + reconstruction <= 2 * macs(a, c, right) else Order(a, c, right)


def weight_gradients(x: Tensor, dy: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of A and C for rows x [n, p q] and dy [n, u v], by GEMMs over all rows."""
    if is_dense(a):
        dw = gram(x, dy)
        return (dw * c[0]).sum().view(1, 1, 1), (a * dw)
    order = Order(a, c, right_first(a, c))
    return order.gradients(
        order.gradient_first(x, order.finish_back(dy)), order.gradient_second(order.begin(x), dy)
    )


def tiles(dtype: torch.dtype) -> dict[str, int]:
    """Block sizes of `kron_product`: float32 products hold their operands in registers."""
    exact = dtype == torch.float32
    return {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 16 if exact else 32}


def rows_together(batch: int, *shapes: int) -> int:
    """How many rows of the batch one program takes, so that the 16 rows of a tile are filled in every product."""
    return min(batch, max(1, 16 // max(1, min(shapes))))


def stages(a: Tensor, c: Tensor) -> tuple[bool, tuple[int, int], int]:
    """The order; the rows of its two products, and the numbers between them, for one row of the batch."""
    (s, p, u), (_, q, v) = a.shape, c.shape
    right = right_first(a, c)
    rows = (p, v) if right else (q, u)
    return right, rows, rows[0] * s * rows[1]


def flat_factors(a: Tensor, c: Tensor, right: bool) -> tuple[Tensor, Tensor]:
    """`first` and `second` of an `Order`, contiguous; of a dense W, W itself and nothing."""
    if is_dense(a):
        return (a * c)[0].contiguous(), a
    order = Order(a, c, right)
    return order.first.contiguous(), order.second.contiguous()
