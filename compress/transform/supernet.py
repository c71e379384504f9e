"""One set of weights for all architectures of a space, trained by drawing one in each step.

A method of the engine: the run's network becomes a `Supernet`, and its checkpoints hold the shared weights. What is scored
and saved meanwhile is the original architecture.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dropfold.compress.transform.families import Family, network_of
from dropfold.models import reestimate_batch_norm
from dropfold.models.operations.replace import Operations
from dropfold.train.engine.method import Batches, Method
from dropfold.train.engine.step import Step


class Supernet(nn.Module):
    """The network of one architecture at a time, `path`, with its part of the shared weights.

    What it computes is what `restricted(path)` computes: the same module, given the shared weights themselves.
    """

    def __init__(self, network: nn.Module, family: Family) -> None:
        super().__init__()
        self.network, self.own, self.family = network, family.own, family
        self.path = family.space.canonical(family.space.original.operations())

    def forward(self, *inputs: Tensor) -> Any:
        small = network_of(self.network, self.path)
        return functional_call(small, self.shared(self.path), inputs, strict=True)

    def shared(self, operations: Operations) -> dict[str, Tensor]:
        """The state of an architecture's network, as parts of the shared weights."""
        states = (module.state_dict(keep_vars=True) for module in (self.network, self.own))
        return self.family.share(operations, *states)

    @torch.no_grad()
    def restricted(self, operations: Operations) -> nn.Module:
        """An architecture's network, with its part of the shared weights as they are now."""
        small = network_of(self.network, operations)
        small.load_state_dict({name: value.detach() for name, value in self.shared(operations).items()})
        return small


class TrainSupernet(Method):
    """Trains a supernet: in each step one architecture, drawn uniformly from its options, or with `sandwich` the original
    one and two that are drawn, their gradients added (Yu and Huang 2019)."""

    def __init__(self, family: Family, sandwich: bool = False) -> None:
        self.family, self.sandwich = family, sandwich
        self.original = family.space.canonical(family.space.original.operations())

    def prepare(self, network: nn.Module) -> nn.Module:
        """The supernet of the network."""
        return Supernet(network, self.family)

    def take_step(self, step: Step) -> tuple[Tensor, Tensor]:
        """One architecture, or three."""
        supernet: Any = step.network
        drawn = [self.family.space.draw() for _ in range(2 if self.sandwich else 1)]
        paths = [self.original, *drawn] if self.sandwich else drawn
        taken = []
        for path in paths:
            supernet.path = path
            logits = step.forward()
            loss = step.loss(logits) / len(paths)
            step.backward(loss)
            taken.append((loss.detach(), logits))
        for p in supernet.parameters():
            if p.grad is None:  # of operations that were not drawn: the optimiser's moments go on alike
                p.grad = torch.zeros_like(p)
        step.update()
        supernet.path = self.original
        return torch.stack([loss for loss, _ in taken]).sum(), taken[0][1]

    def evaluated(self, network: nn.Module, batches: Batches) -> nn.Module:
        """The original architecture, its BatchNorms measured."""
        supernet: Any = network
        small = copy.deepcopy(supernet.network)
        reestimate_batch_norm(small, batches(), lambda inputs: small(*inputs))
        return small
