"""How much the loss rises without a channel, measured: each one masked in turn (exact ablation).

The most exact of all criteria for one channel, and the dearest: a forward pass for each channel and batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dropfold.compress.methods.taylor import Loss
from dropfold.compress.plan.plan import Plan, removed


@torch.no_grad()
def ablation(
    plan: Plan, losses: Iterable[Loss], advance: Callable[[int], object] = lambda _: None
) -> dict[str, Tensor]:
    """The rise [C] of the mean loss for each group's channels; `advance` is called with 1 after each channel.

    Raises:
        ValueError: there is no batch.
    """
    network = copy.deepcopy(plan.model).eval()
    state, batches = network.state_dict(), list(losses)
    if not batches:
        raise ValueError("ablation needs a batch of data at least; got none.")

    def mean_loss() -> float:
        return sum(float(loss(network)) for loss in batches) / len(batches)

    whole, found = mean_loss(), {}
    for group in plan.groups:
        rises = []
        for channel in range(group.size):
            before = []
            for tensor, axis, positions in removed(group, [c for c in range(group.size) if c != channel]):
                where = positions.to(state[tensor].device)
                before.append((tensor, axis, where, state[tensor].index_select(axis, where)))
                state[tensor].index_fill_(axis, where, float(tensor.endswith("running_var")))
            rises.append(mean_loss() - whole)
            for tensor, axis, where, values in reversed(before):
                state[tensor].index_copy_(axis, where, values)
            advance(1)
        found[group.name] = torch.tensor(rises)
    return found
