"""The four operators of `group_mlp_max`: `_group_tiles` with the passes of a device, and the shapes of what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels._group_kernels import OnGPU
from kernels._group_pass import OnCPU
from kernels._group_tiles import forward, gradients, moments, sums
from kernels._norm_pass import NOISE
from kernels._operator import operator

ENTRIES = (
    "Tensor q, Tensor p, Tensor ptr, Tensor idx, Tensor owner, Tensor count, "
    "Tensor[] weights, Tensor[] vectors, float[] slopes"
)
GRADIENT = f"{ENTRIES}, Tensor matrix, Tensor constant, Tensor offset, Tensor g, Tensor where"


def _on(passes: Any) -> list[Callable[..., Any]]:
    """The four operators of one device: the same tiles, its passes."""

    def _launch_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
        return moments(passes, *arguments)

    def _launch_forward(*arguments: Any) -> tuple[Tensor, ...]:
        outputs = _fake_forward(*arguments)
        forward(passes, outputs, *arguments)
        return outputs

    def _launch_sums(*arguments: Any) -> Tensor:
        return sums(passes, *arguments)

    def _launch_gradients(*arguments: Any) -> Any:
        outputs = _fake_gradients(*arguments)
        gradients(passes, outputs, *arguments)
        return outputs

    return [_launch_moments, _launch_forward, _launch_sums, _launch_gradients]


_CPU, _GPU = _on(OnCPU), _on(OnGPU)


def _fake_moments(q: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    weights = arguments[5]
    mean = q.new_empty(weights[-1].shape[0] if weights else q.shape[1])
    return mean, torch.empty_like(mean)


def _fake_forward(q: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    p, weights, wanted = arguments[0], arguments[5], arguments[9]
    top = q.new_empty((p.shape[0], weights[-1].shape[0]))
    channels = weights[-1].shape[1] if wanted else 0
    where = torch.empty_like(top, dtype=torch.int32)
    return top, where, q.new_empty(channels), q.new_empty((channels, channels))


def _fake_gradients(q: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    p, weights = arguments[0], arguments[5]
    of_rows, of_groups = (torch.empty_like(x) for x in (q, p))
    dweights = [torch.empty_like(w, dtype=q.dtype) for w in weights]
    return of_rows, torch.empty_like(q), of_groups, torch.empty_like(p), dweights


moments_of = operator(
    f"group_mlp_max_moments({ENTRIES}) -> (Tensor, Tensor)",
    cpu=_CPU[0],
    triton=_GPU[0],
    fake=_fake_moments,
)
forward_of = operator(
    f"group_mlp_max_fwd({ENTRIES}, Tensor offset, bool statistics, {NOISE}) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_CPU[1],
    triton=_GPU[1],
    fake=_fake_forward,
)
sums_of = operator(
    f"group_mlp_max_sums({GRADIENT}, int layer) -> Tensor",
    cpu=_CPU[2],
    triton=_GPU[2],
    fake=lambda *arguments: torch.empty_like(arguments[7][arguments[14]][:2]),
)
gradients_of = operator(
    f"group_mlp_max_bwd({GRADIENT}) -> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
    cpu=_CPU[3],
    triton=_GPU[3],
    fake=_fake_gradients,
)
