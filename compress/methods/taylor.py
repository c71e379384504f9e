"""How much the loss is expected to change without a channel: first order, squared, over batches of training data.

With g the gradient of a batch's mean loss, in evaluation (Molchanov et al. 2019, "Importance estimation for neural network
pruning", equations 7 and 8):

    taylor_c = mean over batches of (sum over the numbers p of channel c of g_p p)^2

The numbers of a channel are the scale and shift of the BatchNorm behind it: without both the channel is 0. Where there is
none they are its row and bias. (With a BatchNorm behind it a row's own sum of g_p p is 0, as its scale does not matter.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from dropfold.compress.plan.plan import Group, Plan

Loss = Callable[[nn.Module], Tensor]  # of a batch


def taylor(plan: Plan, losses: Iterable[Loss]) -> dict[str, Tensor]:
    """The scores [C] of each group's channels; each of `losses` gives the mean loss of a batch under a network.

    Raises:
        ValueError: there is no batch.
    """
    network = copy.deepcopy(plan.model).eval().requires_grad_(True)
    parameters = dict(network.named_parameters())
    numbers = {group.name: _numbers(plan, group) for group in plan.groups}
    total = {group.name: torch.zeros(group.size) for group in plan.groups}
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss(network), list(parameters.values()), allow_unused=True)
        product = {
            name: torch.zeros_like(p) if g is None else g * p.detach()
            for (name, p), g in zip(parameters.items(), gradients, strict=True)
        }
        for name, tensors in numbers.items():
            change = torch.zeros_like(total[name])
            for tensor, positions in tensors:
                of_rows = product[tensor].flatten(1).sum(1) if product[tensor].dim() > 1 else product[tensor]
                change += of_rows.float().cpu()[positions].sum(1)
            total[name] += change.square()
        count += 1
    if not count:
        raise ValueError("taylor needs a batch of data at least; got none.")
    return {name: scores / count for name, scores in total.items()}


def _numbers(plan: Plan, group: Group) -> list[tuple[str, Tensor]]:
    """The tensors that hold the numbers of the group's channels, and where."""
    names = dict(plan.model.named_parameters())
    state = plan.model.state_dict()
    made = [s for s in group.slices if s.axis == 0 and s.positions.shape[1] == 1 and s.tensor in names]
    norms = [s for s in made if f"{s.tensor.rpartition('.')[0]}.running_mean" in state]
    return [(s.tensor, s.positions) for s in norms or made]
