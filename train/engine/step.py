"""One step of training: forward, loss, backward, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dropfold.train.config.configs import Config
from dropfold.train.scoring.objective import loss_function, restrict_to_family

if TYPE_CHECKING:
    from accelerate import Accelerator

Term = Callable[["Step", Tensor], Tensor | None]


@dataclass
class Learner:
    """What all steps of a run share."""

    config: Config
    wrapped: nn.Module
    """The network as accelerate prepared it, maybe inside a process group: its forward starts a backward over all ranks."""
    network: nn.Module
    """The network itself."""
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    weight: Tensor | None = None
    """[classes] weights of the loss."""
    family: Tensor | None = None
    """[classes] numbers; the loss is over the classes of the target's family alone."""
    terms: Sequence[Term] = ()
    """What methods add to the loss."""


@dataclass
class Step:
    """A batch, and the four parts of a step, which a method that owns the step may call as often as it needs."""

    learner: Learner
    epoch: int
    index: int
    """Of the step in its epoch, from 0."""
    inputs: tuple[Tensor, ...]
    target: Tensor
    gradient_norm: Tensor | float = field(default=0.0, init=False)
    """Of the last update, before clipping."""

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.learner.network

    def forward(self, inputs: tuple[Tensor, ...] | None = None) -> Tensor:
        """Logits of the batch, or of other inputs for the same targets, in the run's mixed precision."""
        with self.learner.accelerator.autocast():
            logits = self.learner.wrapped(*(self.inputs if inputs is None else inputs))
        if (family := self.learner.family) is not None:
            logits = restrict_to_family(logits, family, family[self.target])
        return logits

    def loss(self, logits: Tensor) -> Tensor:
        """The loss of the task, and the terms of the methods."""
        loss = loss_function(logits, self.target, self.learner.config, self.learner.weight)
        for term in self.learner.terms:
            if (value := term(self, logits)) is not None:
                loss = loss + value
        return loss

    def clear_gradients(self) -> None:
        """Forget the gradients; every step begins without any."""
        self.learner.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        self.learner.accelerator.backward(loss)

    def update(self) -> None:
        """Clip the gradients and let the optimiser change the weights."""
        learner = self.learner
        limit = learner.config.clip or math.inf
        norm = learner.accelerator.clip_grad_norm_(learner.wrapped.parameters(), limit)
        self.gradient_norm = 0.0 if norm is None else norm
        learner.optimizer.step()

    def take(self) -> tuple[Tensor, Tensor]:
        """The usual step. Returns the loss and the logits."""
        logits = self.forward()
        loss = self.loss(logits)
        self.backward(loss)
        self.update()
        return loss, logits
