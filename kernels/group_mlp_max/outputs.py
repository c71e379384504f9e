"""The arguments of group_mlp_max's operators, their empty outputs, and the operators of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.group_mlp_max.entries import Entries
from dropfold.kernels.group_mlp_max.tiles import (
    Chain,
    LastGradient,
    Source,
    forward,
    gradients,
    moments,
    sums,
)
from dropfold.kernels.noise.draw.drawn import Drawn


def source_of(arguments: tuple[Any, ...]) -> tuple[Source, tuple[Any, ...]]:
    """The arguments that `ENTRIES` names, and the others."""
    return Source(Entries(*arguments[:6]), *arguments[6:9]), arguments[9:]


def operators_on(chain: Callable[..., Chain]) -> list[Callable[..., Any]]:
    """The four operators of one device: the same tiles, its chain."""

    def launch_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
        return moments(chain(source_of(arguments)[0]))

    def launch_forward(*arguments: Any) -> tuple[Tensor, ...]:
        source, (offset, wanted, *drawn) = source_of(arguments)
        outputs = empty_forward(*arguments)
        forward(chain(source, offset), outputs, wanted, Drawn(*drawn))
        return outputs

    def launch_sums(*arguments: Any) -> Tensor:
        source, (*given, layer) = source_of(arguments)
        return sums(chain(source, given=LastGradient(*given)), layer)

    def launch_gradients(*arguments: Any) -> Any:
        source, given = source_of(arguments)
        outputs = empty_gradients(*arguments)
        gradients(chain(source, given=LastGradient(*given)), outputs)
        return outputs

    return [launch_moments, launch_forward, launch_sums, launch_gradients]


def empty_moments(*arguments: Any) -> tuple[Tensor, Tensor]:
    (entries, weights, *_), _ = source_of(arguments)
    mean = entries.q.new_empty(weights[-1].shape[0] if weights else entries.q.shape[1])
    return mean, torch.empty_like(mean)


def empty_forward(*arguments: Any) -> tuple[Tensor, ...]:
    (entries, weights, *_), (_, wanted, *_) = source_of(arguments)
    top = entries.q.new_empty((entries.p.shape[0], weights[-1].shape[0]))
    channels = weights[-1].shape[1] if wanted else 0
    where = torch.empty_like(top, dtype=torch.int32)
    return top, where, top.new_empty(channels), top.new_empty((channels, channels))


def empty_sums(*arguments: Any) -> Tensor:
    source, (*_, layer) = source_of(arguments)
    return torch.empty_like(source.vectors[layer][:2])


def empty_gradients(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    (entries, weights, *_), _ = source_of(arguments)
    gq, d = (torch.empty_like(entries.q) for _ in range(2))
    gp, s = (torch.empty_like(entries.p) for _ in range(2))
    return gq, d, gp, s, [torch.empty_like(w, dtype=gq.dtype) for w in weights]
