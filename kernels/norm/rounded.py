r"""Products in 8 bits, for evaluation on the CPU: weights are held rounded, rows are rounded as they come.

    W^_ck = t_c round(W_ck / t_c),    t_c = max_k |W_ck| / 127        one scale an output channel
    x^_mk = s_m round(x_mk / s_m),    s_m = max_k |x_mk| / 127        one scale a row, found anew at each call
    y_mc  = sum_k x^_mk W^_ck + b_c = s_m t_c (a sum of integers) + b_c

So each function here is the operation of its name on rounded numbers: BatchNorm, activation, max, mean, and the sums of an
EdgeConv stay in float32. The integers' sum is exact. A rounded number is off by half a scale at most, so

    |y - x W^T|  <=  sum_k (|x_mk| t_c / 2 + |W_ck| s_m / 2 + s_m t_c / 4)  <=  k s_m t_c (127 + 1/4)

A row's scale is its own, so a row's numbers do not depend on which others are in the batch; a row with NaN or infinity is
NaN, and one whose largest number is below 1e-35 is 0. torch.ao's dynamic quantisation takes one scale and a zero point for
the whole tensor instead.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.norm.batch_norm.operation import BatchNorm, check_channels
from dropfold.kernels.norm.evaluation.operation import (
    edge_conv_eval,
    group_mlp_eval,
    linear_act_eval,
    linear_pool_eval,
    scale_and_shift,
)
from dropfold.kernels.points.clouds import check_neighbours, global_idx, to_rows
from dropfold.kernels.points.groups import Groups

LARGEST = 127
SMALLEST = 1e-35  # as in kernels/backend/integers.py, which needs numba
MOST_INPUTS = 1 << 16  # 127 * 254 times as many stay below 2^31


class Rounded(NamedTuple):
    """A matrix in 8 bits: integers [n, k] int8, and the scale [n] of each of its rows, float32."""

    integers: Tensor
    scale: Tensor

    def columns(self, begin: int, end: int) -> Rounded:
        """Some of its columns."""
        return Rounded(self.integers[:, begin:end], self.scale)

    def to_float(self) -> Tensor:
        """The matrix that it stands for."""
        return self.integers * self.scale[:, None]


def round_matrix(weight: Tensor) -> Rounded:
    """W [n, k] of float32 in 8 bits.

    Raises:
        ValueError: it has numbers that are not finite, or too many columns.
    """
    if not bool(weight.isfinite().all()):
        raise ValueError(
            f"a weight {describe(weight)} holds NaN or infinity, which cannot be rounded to 8 bits."
        )
    if not 1 <= weight.shape[1] <= MOST_INPUTS:
        raise ValueError(
            f"a matrix in 8 bits has 1 to {MOST_INPUTS:,} inputs, so that sums fit 32 bits; got {describe(weight)}."
        )
    weight = weight.detach()
    scale = weight.abs().amax(1) / LARGEST
    integers = (
        (weight / scale.clamp(min=torch.finfo(scale.dtype).tiny)[:, None]).round().clamp(-LARGEST, LARGEST)
    )
    return Rounded(integers.to(torch.int8), scale)


def round_rows(x: Tensor) -> Tensor:
    """x^: the rows of x [..., k] as the products here see them, in float; the specification."""
    largest = x.abs().amax(-1, keepdim=True)
    scale = torch.where(largest.isfinite(), largest / LARGEST, torch.nan)
    return torch.where(largest < SMALLEST, torch.zeros_like(x), (x * (LARGEST / largest)).round() * scale)


def linear(x: Tensor, weight: Rounded, bias: Tensor | None = None) -> Tensor:
    """x^ W^^T + b of x [..., k]."""
    _check(x, weight)
    shift = torch.zeros_like(weight.scale) if bias is None else bias
    y = linear_act_eval(x.reshape(-1, x.shape[-1]), weight.integers, weight.scale, shift, 1.0)
    return y.view(*x.shape[:-1], y.shape[1])


def linear_norm_act(
    x: Tensor, weight: Rounded, bias: Tensor | None, norm: BatchNorm, *, negative_slope: float = 0.0, **others: Any
) -> Tensor:  # fmt: skip
    """`dropfold.kernels.linear_norm_act` of rounded numbers."""
    _check(x, weight, norm, **others)
    z = linear_act_eval(x.flatten(0, -2), weight.integers, *_affine(weight, norm, bias), negative_slope)
    return z.view(*x.shape[:-1], z.shape[1])


def linear_norm_pool(
    x: Tensor, weight: Rounded, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0, mean: bool = True,
    **others: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`dropfold.kernels.linear_norm_pool` of rounded numbers; without `mean` the second is not made."""
    _check(x, weight, norm, **others)
    rows, ptr = to_rows(x, batch, batch_size)
    return linear_pool_eval(rows, weight.integers, ptr, *_affine(weight, norm, bias), negative_slope, mean)


def edge_conv(
    x: Tensor, idx: Tensor, weight: Rounded, bias: Tensor | None, norm: BatchNorm, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.2, **others: Any,
) -> Tensor:  # fmt: skip
    """`dropfold.kernels.edge_conv` of rounded numbers: W^ [x^_j - x^_i ; x^_i], whose two products are integers, too."""
    check_neighbours(idx, x)
    rows, _ = to_rows(x, batch, batch_size)
    near, central = weight.columns(0, rows.shape[1]), weight.columns(rows.shape[1], 2 * rows.shape[1])
    _check(x, near, norm, **others)
    difference = central.integers.to(torch.int16) - near.integers
    graph = rows, difference, near.integers.to(torch.int16), global_idx(idx)
    out = edge_conv_eval(*graph, *_affine(weight, norm, bias), negative_slope)
    return out.view(*x.shape[:-1], out.shape[1])


def group_mlp_max(
    q: Tensor, p: Tensor, groups: Groups, weights: Sequence[Rounded], norms: Sequence[BatchNorm],
    biases: Sequence[Tensor | None], *, negative_slope: float = 0.0, **others: Any,
) -> Tensor:  # fmt: skip
    """`dropfold.kernels.group_mlp_max` of rounded numbers; q and p, what the first linear map made, are not rounded."""
    for weight, norm in zip(weights, norms[1:], strict=True):
        _check(q, weight, norm, inputs=weight.integers.shape[1], **others)
    vectors = [scale_and_shift(norms[0], biases[0])]
    vectors += [_affine(*layer) for layer in zip(weights, norms[1:], biases[1:], strict=True)]
    scale, shift = (torch.cat(parts) for parts in zip(*vectors, strict=True))
    integers = [weight.integers.to(torch.int16) for weight in weights]
    return group_mlp_eval(q, p, groups.ptr, groups.idx, integers, scale, shift, [negative_slope] * len(norms))


def _affine(weight: Rounded, norm: BatchNorm, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scale, shift) of the sum of integers."""
    scale, shift = scale_and_shift(norm, bias)
    return scale * weight.scale, shift


def _check(
    x: Tensor, weight: Rounded, norm: BatchNorm | None = None, noise: Any = None, return_argmax: bool = False,
    inputs: int | None = None, **clouds: Any,
) -> None:  # fmt: skip
    """Refuse what 8 bits do not have: there is no other path to take in silence."""
    if not x.is_cpu or x.dtype != torch.float32:
        raise ValueError(
            f"products in 8 bits take float32 on the CPU; got {describe(x)}. Give x.float().cpu(), with the network there "
            "too, or run the network that was not rounded."
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(
            "products in 8 bits have no gradient, and x requires one; run the network that was not rounded, or under "
            "torch.no_grad()."
        )
    if noise is not None or return_argmax or (norm is not None and norm.training):
        what = "noise" if noise is not None else "return_argmax" if return_argmax else "training mode"
        raise ValueError(
            f"products in 8 bits are for evaluation, and {what} was asked for; call network.eval(), or use the network that "
            "was not rounded."
        )
    given = x.shape[-1] if inputs is None else inputs
    if given != weight.integers.shape[1]:
        raise ValueError(f"x must have {weight.integers.shape[1]} channels; got {describe(x)}.")
    if norm is not None:
        check_channels(weight.integers.shape[0], norm, x)
