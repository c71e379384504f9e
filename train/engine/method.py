"""A method: a change to how a run trains, without a change to the engine.

Calls of a run, in order:

    prepare(network)                            once, before the optimiser is made
    load_state_dict(state)                      if the run is resumed: the state of rank 0, on every rank
    before_epoch(network, epoch)
        before_step(step)                       the noise's seed is set: random numbers belong to (seed, epoch, step, rank)
        take_step(step)                         of the method that owns the step, if there is one
            loss(step, logits)                  whenever a loss is computed
        after_step(step)
    after_epoch(network, epoch)
    evaluated(network, batches)                 before the network is scored or saved
    state_dict()                                into the checkpoint, after each epoch

Each rank makes all calls, except that `evaluated` and `state_dict` are called on rank 0 alone. The checkpoint holds rank 0's
state, and all ranks load it: what a method keeps must be the same on all ranks, e.g. reduced over them. A resumed run equals
the uninterrupted one if the method keeps in `state_dict` all that outlives a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from dropfold.train.engine.step import Step

Batches = Callable[[], Iterator[tuple[Tensor, ...]]]


class Method:
    """A change to a run. A subclass overrides the calls that it needs; here they do nothing."""

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network to train: `network`, changed, or another one in its place.

        Commands that read the run build their network from the config alone: a method that exchanges layers gives back, in
        `evaluated`, a network whose weights fit that.
        """
        return network

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        """Before the first step of an epoch, counted from 0."""

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """After the last step of an epoch, before the network is scored; returns figures for the epoch's line of metrics."""
        return {}

    def before_step(self, step: Step) -> None:
        """Before the forward of a step."""

    def take_step(self, step: Step) -> tuple[Tensor, Tensor] | None:
        """Do the whole step, by `step.forward`, `loss`, `backward` and `update` in any number, and return the loss and the
        logits that are reported. None, as here: the engine does the usual step. At most one method of a run owns it."""
        return None

    def loss(self, step: Step, logits: Tensor) -> Tensor | None:
        """A term that is added to the loss, or None."""
        return None

    def after_step(self, step: Step) -> None:
        """After the weights have changed."""

    def evaluated(self, network: nn.Module, batches: Batches) -> nn.Module:
        """The network to score and save: `network` itself, or a changed copy. `batches()` gives the inputs of an epoch of
        training, on the network's device, the same ones each time."""
        return network

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers to keep in the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what rank 0's `state_dict` gave; tensors are on the CPU. Called after `prepare`, before the weights are
        loaded."""


def owns_step(method: Method) -> bool:
    """Whether a method overrides `take_step`."""
    return type(method).take_step is not Method.take_step
