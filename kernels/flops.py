"""Floating-point operations of the operators here, for `torch.utils.flop_counter.FlopCounterMode`.

`import dropfold.kernels.flops` tells the counter, which otherwise passes over custom operators in silence. Counted are
products of matrices, a multiply-add as 2, as torch counts its own; and the distances of `knn`, 2 C for each pair of points
of a cloud. What is counted is what is done: an EdgeConv multiplies points, not edges, and backward passes that make products
anew count them again. Activations, norms, pools and searches in three coordinates count 0, as with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula

import dropfold.kernels  # noqa: F401  (the operators)
from dropfold.kernels.recurrent.kron.factors import multiply_adds, right_first


def _rows_by_matrix(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """x [..., m] times weight [n, m]."""
    return 2 * x.numel() * len(weight)


def _winning_rows(g: Tensor, argmax: Tensor, x: Tensor, weight: Tensor, **_: Any) -> int:
    """Of each maximum the row that won: its part of dx and of dW."""
    return 2 * 2 * argmax.numel() * weight.shape[1]


def _two_matrices(x: Tensor, central: Tensor, near: Tensor, *_: Any, **__: Any) -> int:
    """x [M, C] times both halves of an EdgeConv's matrix."""
    return 2 * x.numel() * (len(central) + len(near))


def _pairs(x: Tensor, ptr: Tensor, *_: Any, **__: Any) -> int:
    """Distances between all points of a cloud, in C channels."""
    return 2 * x.shape[1] * int(ptr.diff().square().sum())


def _perceptron(times: int) -> Callable[..., int]:
    """The matrices of a perceptron on the members of groups, so many times."""

    def formula(q: Tensor, p: Tensor, ptr: Tensor, idx: Tensor, *rest: Any, **_: Any) -> int:
        weights: Sequence[Tensor] = next(part for part in rest if isinstance(part, list | tuple))
        return times * 2 * idx.numel() * sum(weight.numel() for weight in weights)

    return formula


def _macs(a: Tensor, c: Tensor) -> int:
    """Of one row times sum_s A_s (x) C_s, in the cheaper order; a dense matrix has a factor 1 [1, 1, 1]."""
    if 1 in (a.numel(), c.numel()):
        return a.numel() * c.numel()
    return multiply_adds(a, c, right_first(a, c))


def _kron(x: Tensor, a: Tensor, c: Tensor, *_: Any, **__: Any) -> int:
    """x [n, p q] times sum_s A_s (x) C_s."""
    return 2 * len(x) * _macs(a, c)


def _kron_gradients(dy: Tensor, x: Tensor, t: Tensor, a: Tensor, c: Tensor, *rest: Any, **_: Any) -> int:
    """The factors' gradients cost as much as the product; so does dx."""
    return (1 + bool(rest[2])) * _kron(x, a, c)


def _steps(gx: Tensor, a: Tensor, c: Tensor, *_: Any, **__: Any) -> int:
    """The hidden product of each frame: gx [T, B, gates H]."""
    return 2 * prod(gx.shape[:2]) * _macs(a, c)


def _steps_back(*given: Any, **_: Any) -> int:
    """dz U^T of each frame, and the gradients of the factors."""
    gates, (a, c) = given[0], given[1:3]
    return 2 * 2 * prod(gates.shape[:2]) * _macs(a, c)


OPERATIONS: dict[str, Callable[..., int]] = {
    "linear_act_eval": _rows_by_matrix,
    "linear_pool_eval": _rows_by_matrix,
    "linear_norm_max_fwd": _rows_by_matrix,
    "linear_norm_max_bwd": _winning_rows,
    "edge_conv_eval": _two_matrices,
    "knn": _pairs,
    "group_mlp_eval": _perceptron(1),
    "group_mlp_max_moments": _perceptron(1),
    "group_mlp_max_fwd": _perceptron(1),
    "group_mlp_max_sums": _perceptron(2),  # forward again, and back to the layer
    "group_mlp_max_bwd": _perceptron(3),  # forward again, the inputs' gradients and the weights'
    "kron_linear_fwd": _kron,
    "kron_linear_bwd": _kron_gradients,
    "lstm_sequence_fwd": _steps,
    "gru_sequence_fwd": _steps,
    "lstm_sequence_bwd": lambda dout, dh, dc, gates, hs, cs, a, c, *_, **__: _steps_back(gates, a, c),
    "gru_sequence_bwd": lambda dout, dh, gates, hs, a, c, *_, **__: _steps_back(gates, a, c),
}


for _name, _formula in OPERATIONS.items():
    if (_packet := getattr(torch.ops.dropfold, _name)) not in flop_registry:
        register_flop_formula(_packet, get_raw=True)(_formula)
