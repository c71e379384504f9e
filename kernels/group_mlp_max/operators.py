"""The four operators of group_mlp_max and their empty outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.operator import operator
from dropfold.kernels.group_mlp_max.entries import take_source
from dropfold.kernels.noise.elementwise.operation import NOISE

SOURCE = (
    "Tensor of_points, Tensor of_groups, Tensor ptr, Tensor idx, Tensor owner, Tensor count, "
    "Tensor[] weights, Tensor[] vectors, float[] slopes"
)
LAST_GRADIENT = "Tensor matrix, Tensor constant, Tensor offset, Tensor g, Tensor argmax"


def empty_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Mean and centred sum of squares of y after the last weight."""
    (entries, weights, *_), _ = take_source(arguments)
    mean = entries.q.new_empty(weights[-1].shape[0] if weights else entries.q.shape[1])
    return mean, torch.empty_like(mean)


def empty_forward(*arguments: Any) -> tuple[Tensor, ...]:
    """The max and its entry [G, C_out], and (with statistics) the sum and the Gram matrix of the last z."""
    (entries, weights, *_), (_, statistics, *_) = take_source(arguments)
    maximum = entries.q.new_empty((entries.p.shape[0], weights[-1].shape[0]))
    channels = weights[-1].shape[1] if statistics else 0
    argmax = torch.empty_like(maximum, dtype=torch.int32)
    return maximum, argmax, maximum.new_empty(channels), maximum.new_empty((channels, channels))


def empty_sums(*arguments: Any) -> Tensor:
    """Sums [2, C] of g and g y_hat of a layer."""
    source, (*_, layer) = take_source(arguments)
    return torch.empty_like(source.vectors[layer][:2])


def empty_gradients(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Sums of g and p over the entries of each row [M, C], of g and q over those of each group, the weights' gradients."""
    (entries, weights, *_), _ = take_source(arguments)
    gq, d = (torch.empty_like(entries.q) for _ in range(2))
    gp, s = (torch.empty_like(entries.p) for _ in range(2))
    return gq, d, gp, s, [torch.empty_like(w, dtype=gq.dtype) for w in weights]


compute_moments = operator(
    f"group_mlp_max_moments({SOURCE}) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_moments,
)
compute_forward = operator(
    f"group_mlp_max_fwd({SOURCE}, Tensor offset, bool statistics, {NOISE}) -> (Tensor, Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=empty_forward,
)
compute_sums = operator(
    f"group_mlp_max_sums({SOURCE}, {LAST_GRADIENT}, int layer) -> Tensor",
    implementations=__package__,
    fake=empty_sums,
)
compute_gradients = operator(
    f"group_mlp_max_bwd({SOURCE}, {LAST_GRADIENT}) -> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
    implementations=__package__,
    fake=empty_gradients,
)
