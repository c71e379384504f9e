"""The four operators of `group_mlp_max`: `_group_tiles` with the chain of a device, and the shapes of what they return."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.operator import operator
from dropfold.kernels.group_mlp_max.chain import on_cpu
from dropfold.kernels.group_mlp_max.kernels import OnGPU
from dropfold.kernels.group_mlp_max.passes import Entries
from dropfold.kernels.group_mlp_max.tiles import (
    Chain,
    LastGradient,
    Source,
    forward,
    gradients,
    moments,
    sums,
)
from dropfold.kernels.noise.draw import Drawn
from dropfold.kernels.noise.elementwise import NOISE

ENTRIES = (
    "Tensor q, Tensor p, Tensor ptr, Tensor idx, Tensor owner, Tensor count, "
    "Tensor[] weights, Tensor[] vectors, float[] slopes"
)
GRADIENT = f"{ENTRIES}, Tensor matrix, Tensor constant, Tensor offset, Tensor g, Tensor where"


def _source(arguments: tuple[Any, ...]) -> tuple[Source, tuple[Any, ...]]:
    """The arguments that `ENTRIES` names, and the others."""
    return Source(Entries(*arguments[:6]), *arguments[6:9]), arguments[9:]


def _on(chain: Callable[..., Chain]) -> list[Callable[..., Any]]:
    """The four operators of one device: the same tiles, its chain."""

    def _launch_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
        return moments(chain(_source(arguments)[0]))

    def _launch_forward(*arguments: Any) -> tuple[Tensor, ...]:
        source, (offset, wanted, *drawn) = _source(arguments)
        outputs = _fake_forward(*arguments)
        forward(chain(source, offset), outputs, wanted, Drawn(*drawn))
        return outputs

    def _launch_sums(*arguments: Any) -> Tensor:
        source, (*given, layer) = _source(arguments)
        return sums(chain(source, given=LastGradient(*given)), layer)

    def _launch_gradients(*arguments: Any) -> Any:
        source, given = _source(arguments)
        outputs = _fake_gradients(*arguments)
        gradients(chain(source, given=LastGradient(*given)), outputs)
        return outputs

    return [_launch_moments, _launch_forward, _launch_sums, _launch_gradients]


_CPU, _GPU = _on(on_cpu), _on(partial(Chain, OnGPU))


def _fake_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
    (entries, weights, *_), _ = _source(arguments)
    mean = entries.q.new_empty(weights[-1].shape[0] if weights else entries.q.shape[1])
    return mean, torch.empty_like(mean)


def _fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
    (entries, weights, *_), (_, wanted, *_) = _source(arguments)
    top = entries.q.new_empty((entries.p.shape[0], weights[-1].shape[0]))
    channels = weights[-1].shape[1] if wanted else 0
    where = torch.empty_like(top, dtype=torch.int32)
    return top, where, top.new_empty(channels), top.new_empty((channels, channels))


def _fake_sums(*arguments: Any) -> Tensor:
    source, (*_, layer) = _source(arguments)
    return torch.empty_like(source.vectors[layer][:2])


def _fake_gradients(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    (entries, weights, *_), _ = _source(arguments)
    gq, d = (torch.empty_like(entries.q) for _ in range(2))
    gp, s = (torch.empty_like(entries.p) for _ in range(2))
    return gq, d, gp, s, [torch.empty_like(w, dtype=gq.dtype) for w in weights]


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
    fake=_fake_sums,
)
gradients_of = operator(
    f"group_mlp_max_bwd({GRADIENT}) -> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
    cpu=_CPU[3],
    triton=_GPU[3],
    fake=_fake_gradients,
)
