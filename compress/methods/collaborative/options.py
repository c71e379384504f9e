"""What may become of a layer.

Along a layer's path of steps the numbers of channels and the ranks are rounded up to whole vectors, and a matrix whose rank
does not pay keeps its form: an option. Its loss of information is that of the weights that it really gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.methods.collaborative.layers import Layer, Matrix
from dropfold.compress.methods.collaborative.steps import information_loss, singular_parts
from dropfold.compress.methods.uniform import ALIGN
from dropfold.compress.plan.choice import Choice

Path = Sequence[tuple[Tensor, list[int]]]


@dataclass(frozen=True)
class Option:
    """Kept channels and ranks of a layer, and the loss of information."""

    choice: Choice
    loss: float


def options_of(layer: Layer, path: Path, align: int = ALIGN) -> list[Option]:
    """The different options along a path, the whole layer first."""
    last = {}
    for step, (kept, _) in enumerate(path):
        for channel in range(layer.channels):
            if kept[channel]:
                last[channel] = step  # a channel that goes late comes back first
    found: dict[tuple[object, ...], Option] = {}
    for kept, ranks in path:
        keep = _aligned(layer, kept, last, align)
        now, given = [], {}
        for matrix, rank in zip(layer.matrices, ranks, strict=True):
            masked = matrix.weight * _columns(matrix, keep)
            rank = -(-rank // align) * align if rank >= align else rank
            if matrix.ranked and _is_cheaper(matrix, keep, rank):
                given[matrix.name] = rank
                u, s, v = singular_parts(masked, rank)
                masked = u * s @ v.T
            now.append(masked)
        key = (*keep.tolist(), *given.items())
        if key not in found:
            choice = Choice(layer.by_group(keep), given)
            found[key] = Option(choice, information_loss(layer, now))
    return list(found.values())


def merged(options: Sequence[Option], ledger: Ledger) -> Choice:
    """The choice of all layers together."""
    channels = {name: kept for option in options for name, kept in option.choice.channels.items()}
    ranks = {name: rank for option in options for name, rank in option.choice.ranks.items()}
    return ledger.drop_costly_ranks(Choice(channels, ranks))


def _aligned(layer: Layer, kept: Tensor, last: dict[int, int], align: int) -> Tensor:
    """The kept channels, and as many more of each group as make a multiple of `align`, those that went last."""
    keep, start = kept.clone(), 0
    for size in layer.groups.values():
        own = range(start, start + size)
        count = int(keep[start : start + size].sum())
        more = min(size, -(-count // align) * align) - count if count >= align else 0
        for channel in sorted((c for c in own if not keep[c]), key=lambda c: (-last[c], c))[:more]:
            keep[channel] = True
        start += size
    return keep


def _columns(matrix: Matrix, keep: Tensor) -> Tensor:
    if not len(keep):
        return torch.ones(matrix.weight.shape[1], dtype=torch.float64)
    return ((matrix.channel < 0) | keep[matrix.channel.clamp(min=0)]).double()


def _is_cheaper(matrix: Matrix, keep: Tensor, rank: int) -> bool:
    """Whether two thin maps multiply less than the matrix, and have that rank."""
    out, inputs = len(matrix.weight), int(_columns(matrix, keep).sum())
    return rank * (out + inputs) < out * inputs and rank <= min(out, inputs)
