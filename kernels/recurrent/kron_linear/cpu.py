"""kron_linear on the CPU: both products by ATen, in chunks of rows that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.recurrent.kron.factors import needs_scaling, right_first
from dropfold.kernels.recurrent.kron.products import KronProduct
from dropfold.kernels.recurrent.kron_linear.operation import empty_bwd_outputs, empty_fwd_outputs

NUMBERS_PER_CHUNK = 1 << 20  # 4 MiB of float32


def kron_linear_fwd(
    x: Tensor, a: Tensor, c: Tensor, bias: Tensor | None, scale: float, shift: float
) -> tuple[Tensor, Tensor]:
    y, t = empty_fwd_outputs(x, a, c, bias, scale, shift)
    product = KronProduct(a, c, right_first(a, c))
    columns = t.view(len(x), product.v, product.p * product.s)
    for rows, chunk in _scaled_chunks(x, scale, shift, product):
        columns[rows] = product.multiply_first(chunk)
        y[rows] = product.multiply_second(columns[rows])
    return (y if bias is None else y.add_(bias)), t


def kron_linear_bwd(
    dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, scale: float, shift: float, need_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    product = KronProduct(a, c, right_first(a, c))
    dx, _, _ = empty_bwd_outputs(dy, x, t, a, c, scale, shift, need_x)
    d_first = torch.zeros_like(product.first, dtype=accumulator(a.dtype))
    for rows, chunk in _scaled_chunks(x, scale, shift, product):
        dt = product.gradient_of_t(dy[rows])
        d_first += product.gradient_of_first(chunk, dt)
        if need_x:
            dx[rows] = product.gradient_of_x(dt).mul_(scale)
    da, dc = product.gradients_of_factors(d_first.to(a.dtype), product.gradient_of_second(t, dy))
    return dx, da, dc


def _scaled_chunks(
    x: Tensor, scale: float, shift: float, product: KronProduct
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x and scale x + shift of them, a chunk at a time.

    A chunk is at least as large as the first matrix, whose gradient is written once a chunk.
    """
    numbers, dtype = max(NUMBERS_PER_CHUNK, product.first.numel()), product.first.dtype
    rows = max(1, numbers // x.shape[1])
    scaled = (
        x.new_empty((min(rows, len(x)), x.shape[1]), dtype=dtype) if needs_scaling(x, scale, shift) else None
    )
    for start in range(0, len(x), rows):
        chunk = x[start : start + rows]
        if scaled is not None:
            chunk = scaled[: len(chunk)].copy_(chunk).mul_(scale).add_(shift)
        yield slice(start, start + len(chunk)), chunk
