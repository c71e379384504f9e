"""How much each channel of a group matters: one small function of the plan each, from the weights alone.

All give [C], larger for what should stay. With w_c the row of channel c in the matrix that makes it:

    l1        sum |w_c|                                               (Li et al. 2017)
    norm      the root of the mean of squares of all numbers that go with c, in the matrices that make and read it, each
              matrix scaled to a mean square of 1                     (group norm, as in DepGraph, Fang et al. 2023)
    fpgm      sum over the channels d of |w_c - w_d|                  (distance to the others: He et al. 2019)
    bn_scale  |gamma_c| of the BatchNorm behind it                    (Liu et al. 2017)
    random    drawn from the seed
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from dropfold.compress.plan.plan import Group, Plan

Criterion = Callable[[Plan, Group], Tensor]


def l1(plan: Plan, group: Group) -> Tensor:
    """Sum of the absolute weights of a channel's row."""
    return sum((rows.abs().sum(1) for rows in _rows(plan, group)), torch.zeros(group.size))


def norm(plan: Plan, group: Group) -> Tensor:
    """Root mean square of all matrix elements that go with a channel."""
    state, total, count = plan.model.state_dict(), torch.zeros(group.size), 0
    for tensor, axis, positions in group.slices:
        weight = state[tensor]
        if weight.dim() < 2:
            continue
        energy = weight.detach().float().cpu().movedim(axis, 0).flatten(1).square().mean(1)
        total += energy[positions].mean(1) / energy.mean().clamp(min=torch.finfo(torch.float32).tiny)
        count += 1
    return (total / max(1, count)).sqrt()


def fpgm(plan: Plan, group: Group) -> Tensor:
    """Sum of the distances from a channel's row to those of the others."""
    rows = torch.cat(_rows(plan, group), 1)
    return torch.cdist(rows[None], rows[None], compute_mode="donot_use_mm_for_euclid_dist")[0].sum(1)


def bn_scale(plan: Plan, group: Group) -> Tensor:
    """The BatchNorm's scale of a channel, without its sign; ValueError if none stands behind the group."""
    state = plan.model.state_dict()
    norms = [s.tensor for s in group.slices if s.tensor.replace(".weight", ".running_var") in state]
    scales = [state[tensor].detach().float().cpu().abs() for tensor in norms if tensor.endswith(".weight")]
    if not scales:
        raise ValueError(
            f"bn_scale needs a BatchNorm with a scale behind each group, and {group.name} has none."
        )
    return sum(scales, torch.zeros(group.size))


def random(plan: Plan, group: Group, seed: int = 0) -> Tensor:
    """Drawn from the seed and the group's name."""
    digest = hashlib.sha256(f"{seed} {group.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.rand(group.size, generator=generator)


def _rows(plan: Plan, group: Group) -> list[Tensor]:
    """The rows [C, ..] of the channels in the matrices that make them."""
    state = plan.model.state_dict()
    made = [
        s for s in group.slices if s.axis == 0 and state[s.tensor].dim() > 1 and s.positions.shape[1] == 1
    ]
    return [state[s.tensor].detach().float().cpu().flatten(1)[s.positions[:, 0]] for s in made]


CRITERIA: dict[str, Criterion] = {
    "l1": l1,
    "norm": norm,
    "fpgm": fpgm,
    "bn_scale": bn_scale,
    "random": random,
}
