"""Layers as Collaborative Compression sees them: matrices, and the channels that they read.

A layer of the paper is one matrix. Where several matrices read the same channels (an edge convolution's output goes on to
the next one and to the last layer; a residual stream) they are one layer here, as the channels go from all of them or stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropfold.compress.plan.matrices import full_ranks, matrices_of
from dropfold.compress.plan.plan import Plan
from dropfold.models.layers.low_rank import flat
from dropfold.models.layers.sizes import edge_matrices

Loss = Callable[[nn.Module], Tensor]  # of a batch
Energy = Literal["mean", "fisher"]


@dataclass(frozen=True)
class Matrix:
    """A matrix W [n, m] of a layer, in float64 (`dropfold.models.layers.low_rank.flat`).

    energy [n, m]: g^2, so that the loss of information of a changed W' is sum g^2 (W' - W)^2.
    channel [m]: the number of the layer's channel that each column is of; -1 of columns that stay.
    """

    name: str
    weight: Tensor
    energy: Tensor
    channel: Tensor
    ranked: bool  # whether its singular values may go


@dataclass(frozen=True)
class Layer:
    """Matrices and the groups of channels that they read; channels are numbered over the groups one after the other."""

    groups: dict[str, int]  # group -> how many channels
    matrices: tuple[Matrix, ...]

    @property
    def channels(self) -> int:
        """How many channels."""
        return sum(self.groups.values())

    def by_group(self, kept: Tensor) -> dict[str, list[int]]:
        """The kept channels [channels] bool of each group that loses some."""
        parts = zip(self.groups, kept.split(list(self.groups.values())), strict=True)
        return {name: part.nonzero().flatten().tolist() for name, part in parts if not part.all()}


def layers_of(plan: Plan, energy: Mapping[str, Tensor]) -> list[Layer]:
    """The layers of a network, in the order of their first matrices; `energy` as from `energies`."""
    matrices, edges, ranks = matrices_of(plan.model), edge_matrices(plan.model), full_ranks(plan.model)
    reads: dict[str, dict[str, list[Tensor]]] = {name: {} for name in matrices}
    for group in plan.groups:
        for tensor, axis, positions in group.slices:
            name = tensor.removesuffix(".weight")
            if axis == 1 and name in matrices:  # twice, where a matrix reads a maximum and a mean
                reads[name].setdefault(group.name, []).append(positions)
    sizes = {group.name: group.size for group in plan.groups}
    layers = []
    for names in _together(reads):
        groups = {group: sizes[group] for group in sizes if any(group in reads[name] for name in names)}
        starts = dict(zip(groups, torch.tensor([0, *groups.values()]).cumsum(0).tolist(), strict=False))
        found = []
        for name in names:
            weight = matrices[name].weight.detach()
            channel = torch.full((weight.shape[1],), -1)
            for read, parts in reads[name].items():
                positions = torch.cat(parts, 1)
                numbers = torch.arange(sizes[read])[:, None].expand_as(positions)
                channel[positions.flatten()] = starts[read] + numbers.flatten()
            edge = name in edges
            channel = (
                channel[: len(channel) // 2] if edge else channel.repeat_interleave(weight[0, 0].numel())
            )
            matrix, of = (flat(v, edge).cpu().double() for v in (weight, energy[name]))
            found.append(Matrix(name, matrix, of, channel, name in ranks))
        if groups or any(matrix.ranked for matrix in found):
            layers.append(Layer(groups, tuple(found)))
    return layers


def energies(plan: Plan, losses: Iterable[Loss], kind: Energy) -> dict[str, Tensor]:
    """g^2 of each matrix by its name, g the gradient of a batch's mean loss in evaluation.

    `mean`: the square of the mean of g over the batches, as published; near the end of training that is near 0.
    `fisher`: the mean of the squares. Over batches of B it is, in expectation,

        E[h]^2 + Var[h] / B        h the gradient of one sample's loss

    and near the end of training, where E[h] is near 0, the diagonal of the empirical Fisher matrix, E[h^2], divided by B.

    Raises:
        ValueError: there is no batch.
    """
    network = copy.deepcopy(plan.model).eval().requires_grad_(True)
    weights = {name: module.weight for name, module in matrices_of(network).items()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss(network), list(weights.values()), allow_unused=True)
        for name, g in zip(weights, gradients, strict=True):
            if g is not None and not g.isfinite().all():
                raise ValueError(
                    f"the gradient of {name} is not finite in batch {count + 1}: its loss is NaN or overflows."
                )
            if g is not None:
                total[name] += g if kind == "mean" else g.square()
        count += 1
    if not count:
        raise ValueError("Collaborative Compression needs a batch of data at least; got none.")
    return {name: (t / count).square() if kind == "mean" else t / count for name, t in total.items()}


def _together(reads: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The matrices that share groups, as lists of names."""
    found: list[tuple[set[str], list[str]]] = []
    for name, groups in reads.items():
        joined = [part for part in found if part[0] & groups.keys()]
        found = [part for part in found if not part[0] & groups.keys()]
        names = [other for part in joined for other in part[1]]
        found.append((set(groups).union(*(part[0] for part in joined)), [*names, name]))
    order = list(reads)
    return sorted((sorted(names, key=order.index) for _, names in found), key=lambda n: order.index(n[0]))
