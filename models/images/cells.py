"""Networks of cells for small images, as DARTS (Liu et al. 2019) and NAT++ (Guo et al. 2021) have them.

    x -> 3 x 3 convolution to 3 C -> BatchNorm -> cells -> mean over all positions -> linear layer

A cell is a DAG on two inputs, the outputs of the two cells before, each brought to C channels by ReLU, a 1 x 1 convolution
and BatchNorm. A node is the sum of the edges that lead to it, and some nodes side by side are what the cell gives. At a
third and two thirds of the depth a cell halves height and width and doubles C: its edges from the inputs have stride 2.

An edge carries one of the thirteen operations of `dropfold.models.operations.convolutions`, in the authors' form: ReLU
before a convolution and BatchNorm behind it, BatchNorm without weights behind a pool; a skip of stride 2 is ReLU, two 1 x 1
convolutions to half of the channels each, the second one position on, and BatchNorm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dropfold.models.images.resnet import check_images
from dropfold.models.operations.convolutions import make_operation, split_name

REDUCTION, NORMAL = "reduction", "normal"


class CellEdge(NamedTuple):
    """An operation from one node to another; 0 and 1 are the cell's inputs."""

    operation: str
    source: int
    target: int


class CellPlan(NamedTuple):
    """The edges of a cell, and the nodes that it gives."""

    edges: tuple[CellEdge, ...]
    gives: tuple[int, ...]


def plan_of(words: str, gives: Sequence[int]) -> CellPlan:
    """A plan from "operation source target, ..."."""
    rows = (edge.split() for edge in words.split(","))
    return CellPlan(tuple(CellEdge(name, int(a), int(b)) for name, a, b in rows), tuple(gives))


# The plans of the authors' code (guoyongcs/NATv2, e50c9ec): normal cells and those that halve.
_RESIDUAL = "null 0 2, skip_connect 1 2, null 0 3, conv_3x3 2 3, null 0 4, conv_3x3 3 4, skip_connect 2 5, skip_connect 4 5"
_STACK = "null 0 2, skip_connect 1 2, null 0 3, conv_3x3 2 3, null 0 4, conv_3x3 3 4, null 0 5, "
PLANS: dict[str, tuple[CellPlan, CellPlan]] = {
    "resnet": (plan_of(_RESIDUAL, [5]), plan_of(_RESIDUAL, [5])),
    "vgg": (plan_of(_STACK + "skip_connect 4 5", [5]), plan_of(_STACK + "max_pool_3x3 4 5", [5])),
    "darts": (
        plan_of(
            "sep_conv_3x3 0 2, sep_conv_3x3 1 2, sep_conv_3x3 0 3, sep_conv_3x3 1 3, sep_conv_3x3 1 4, skip_connect 0 4, "
            "skip_connect 0 5, dil_conv_3x3 2 5",
            [2, 3, 4, 5],
        ),
        plan_of(
            "max_pool_3x3 0 2, max_pool_3x3 1 2, skip_connect 2 3, max_pool_3x3 1 3, max_pool_3x3 0 4, skip_connect 2 4, "
            "skip_connect 2 5, max_pool_3x3 1 5",
            [2, 3, 4, 5],
        ),
    ),
}


class HalvingSkip(nn.Module):
    """ReLU -> [1 x 1 of every other position ; 1 x 1 of those one row and column on] -> BatchNorm, from C to C' channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels // 2, 1, 2, bias=False)
        self.second = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        if x.shape[2] % 2 or x.shape[3] % 2:  # a row and column of zeros, so that both halves are of one size
            x = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return self.norm(torch.cat([self.first(x), self.second(x[:, :, 1:, 1:])], 1))


def pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """ReLU -> 1 x 1 -> BatchNorm."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
    )


def cell_operation(name: str, channels: int, stride: int) -> nn.Module:
    """An operation in the authors' form."""
    kind, k = split_name(name)
    if kind == "skip_connect" and stride == 2:
        return HalvingSkip(channels, channels)
    body = make_operation(name, nn.Conv2d(channels, channels, 5 if k != 5 else 3, stride, bias=False))
    if kind in ("max_pool", "avg_pool"):
        return nn.Sequential(body, nn.BatchNorm2d(channels, affine=False))
    return (
        body if kind in ("skip_connect", "null") else nn.Sequential(nn.ReLU(), body, nn.BatchNorm2d(channels))
    )


class Cell(nn.Module):
    """From the outputs of the two cells before to [B, channels x (nodes that it gives), H, W], halved by a reduction."""

    def __init__(
        self, plan: CellPlan, before: tuple[int, int], channels: int, halved: bool, halves: bool
    ) -> None:
        super().__init__()
        self.plan, self.channels, self.halves = plan, channels, halves
        self.input0 = HalvingSkip(before[0], channels) if halved else pointwise(before[0], channels)
        self.input1 = pointwise(before[1], channels)
        self.edges = nn.ModuleList(self.make(i, edge.operation) for i, edge in enumerate(plan.edges))

    def make(self, i: int, operation: str) -> nn.Module:
        """An operation in the place of the i-th edge."""
        return cell_operation(
            operation, self.channels, 2 if self.halves and self.plan.edges[i].source < 2 else 1
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        nodes = {0: self.input0(first), 1: self.input1(second)}
        for edge, module in zip(self.plan.edges, self.edges, strict=True):
            made = module(nodes[edge.source])
            nodes[edge.target] = nodes[edge.target] + made if edge.target in nodes else made
        return torch.cat([nodes[node] for node in self.plan.gives], 1)


class CellNetwork(nn.Module):
    """Logits [B, num_classes] of images [B, in_channels, H, W].

    Args:
        plan: "resnet", "vgg" or "darts", or the two plans of normal cells and of those that halve.
        channels: C of the first cells.
        cells: how many.
        dropout: before the last layer.
    """

    def __init__(
        self,
        num_classes: int,
        plan: str | tuple[CellPlan, CellPlan] = "resnet",
        channels: int = 20,
        cells: int = 8,
        in_channels: int = 3,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(plan, str):
            if plan not in PLANS:
                raise ValueError(f"plan must be one of {', '.join(PLANS)}, or two plans; got {plan!r}.")
            plan = PLANS[plan]
        self.in_channels, self.plans = in_channels, dict(zip((NORMAL, REDUCTION), plan, strict=True))
        width, before, halved = channels, (3 * channels, 3 * channels), False
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels)
        )
        self.cells = nn.ModuleList()
        for i in range(cells):
            halves = i in (cells // 3, 2 * cells // 3)
            width *= 2 if halves else 1
            cell_plan = plan[halves]
            self.cells.append(Cell(cell_plan, before, width, halved, halves))
            before, halved = (before[1], width * len(cell_plan.gives)), halves
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(before[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.fc.weight, self.in_channels)
        first = second = self.stem(x)
        for cell in self.cells:
            first, second = second, cell(first, second)
        return self.fc(self.dropout(self.pool(second).flatten(1)))

    def operations(self) -> dict[str, str]:
        """The operation of each edge of both kinds of cell, which all cells of a kind share: "normal.3" is the fourth."""
        return {
            f"{kind}.{i}": edge.operation
            for kind, plan in self.plans.items()
            for i, edge in enumerate(plan.edges)
        }

    def replace_operations(self, operations: Mapping[str, str]) -> None:
        """Put other operations on edges; they get fresh weights. ValueError if there is no such operation."""
        for name in operations.values():
            split_name(name)
        known, weight = self.operations(), self.fc.weight
        self.plans = {
            kind: plan._replace(
                edges=tuple(
                    edge._replace(operation=operations.get(f"{kind}.{i}", edge.operation))
                    for i, edge in enumerate(plan.edges)
                )
            )
            for kind, plan in self.plans.items()
        }
        for module in self.cells:
            assert isinstance(module, Cell)
            kind = REDUCTION if module.halves else NORMAL
            module.plan = self.plans[kind]
            for i, edge in enumerate(module.plan.edges):
                if edge.operation != known[f"{kind}.{i}"]:
                    made = module.make(i, edge.operation).to(weight.device, weight.dtype)
                    module.edges[i] = made.train(module.training)
