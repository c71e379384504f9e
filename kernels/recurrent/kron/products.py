"""Products with W = sum_s A_s (x) C_s by two GEMMs, their transposes, and the gradients of A and C.

    y = x W:   Y = sum_s A_s^T X C_s,   x as X [p, q], y as Y [u, v], A [S, p, u], C [S, q, v]

`right` contracts q first, T[i, s, k] = sum_j X[i, j] C[s, j, k], and then p and s: p q S v + p S u v multiply-adds. The
other order is the same with the two sides exchanged, Y^T = sum_s C_s^T X^T A_s. A dense W is A = 1 [1, 1, 1], C = W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.gemm import gram, mm
from dropfold.kernels.recurrent.kron.factors import is_dense, multiply_adds, right_first

COST_OF_SMALL_PRODUCTS = 2  # of a multiply-add in them and the copies between, in those of one large product


class KronProduct:
    """x W in two GEMMs over all rows: x [n, p q] times `first` makes t [n, v, p S], and t times `second` makes y [n, u v].

    For the left order everything here is of the exchanged problem, whose X and Y are the transposes.
    """

    def __init__(self, a: Tensor, c: Tensor, right: bool) -> None:
        self.right = right
        if not right:
            a, c = c, a
        (self.s, self.p, self.u), (_, self.q, self.v) = a.shape, c.shape
        self.first = c.permute(1, 0, 2).reshape(self.q, self.s * self.v)
        self.second = a.permute(1, 0, 2).reshape(self.p * self.s, self.u)

    def multiply(self, x: Tensor) -> Tensor:
        """x W."""
        return self.multiply_second(self.multiply_first(x))

    def multiply_transposed(self, dy: Tensor) -> Tensor:
        """dy W^T."""
        return self.gradient_of_x(self.gradient_of_t(dy))

    def multiply_first(self, x: Tensor) -> Tensor:
        """t; not contiguous."""
        return mm(self._rows_of_x(x), self.first).view(-1, self.p * self.s, self.v).mT

    def multiply_second(self, t: Tensor) -> Tensor:
        """y."""
        y = mm(t.reshape(-1, self.p * self.s), self.second).view(-1, self.v, self.u)
        return (y.mT if self.right else y).reshape(y.shape[0], -1)

    def gradient_of_t(self, dy: Tensor) -> Tensor:
        """dt."""
        return mm(self._columns_of_y(dy), self.second.T).view(-1, self.v, self.p * self.s)

    def gradient_of_x(self, dt: Tensor) -> Tensor:
        """dx."""
        dx = mm(self._rows_of_t(dt), self.first.T).view(-1, self.p, self.q)
        return (dx if self.right else dx.mT).reshape(dx.shape[0], -1)

    def gradient_of_first(self, x: Tensor, dt: Tensor) -> Tensor:
        """d first [q, S v]."""
        return gram(self._rows_of_x(x), self._rows_of_t(dt))

    def gradient_of_second(self, t: Tensor, dy: Tensor) -> Tensor:
        """d second [p S, u]."""
        return gram(t.reshape(-1, self.p * self.s), self._columns_of_y(dy))

    def gradients_of_factors(self, d_first: Tensor, d_second: Tensor) -> tuple[Tensor, Tensor]:
        """dA and dC from the gradients of `first` and `second`."""
        dc = d_first.view(self.q, self.s, self.v).permute(1, 0, 2).contiguous()
        da = d_second.view(self.p, self.s, self.u).permute(1, 0, 2).contiguous()
        return (da, dc) if self.right else (dc, da)

    def _rows_of_x(self, x: Tensor) -> Tensor:
        """X's rows [n p, q]."""
        return (x if self.right else x.view(-1, self.q, self.p).mT).reshape(-1, self.q)

    def _columns_of_y(self, y: Tensor) -> Tensor:
        """Y's columns [n v, u]."""
        return (y.view(-1, self.u, self.v).mT if self.right else y).reshape(-1, self.u)

    def _rows_of_t(self, t: Tensor) -> Tensor:
        """t in the order that the first product leaves it in, [n p, S v]."""
        return t.mT.reshape(-1, self.s * self.v)


def weight_gradients(
    x: Tensor, dy: Tensor, a: Tensor, c: Tensor, need_a: bool = True
) -> tuple[Tensor | None, Tensor]:
    """The gradients of A and C for rows x [n, p q] and dy [n, u v], by GEMMs over all rows.

    Through dW where that costs less: one product over the rows, then dA_s = <dW, C_s> and dC_s = <dW, A_s>. A dense W is C
    times the number A, whose gradient takes a pass over W: it is left out unless it is needed.
    """
    if is_dense(a):
        dw = gram(x, dy)[None]
        return (dw * c).sum().view(1, 1, 1) if need_a else None, dw.mul_(a)
    (s, p, u), (_, q, v) = a.shape, c.shape
    right = right_first(a, c)
    through_dw = p * q * u * v * (1 + 2 * s / len(x))
    if through_dw <= COST_OF_SMALL_PRODUCTS * 2 * multiply_adds(a, c, right):
        dw = gram(x, dy).view(p, q, u, v)
        return torch.einsum("pquv,sqv->spu", dw, c), torch.einsum("pquv,spu->sqv", dw, a)
    product = KronProduct(a, c, right)
    d_first = product.gradient_of_first(x, product.gradient_of_t(dy))
    return product.gradients_of_factors(d_first, product.gradient_of_second(product.multiply_first(x), dy))
