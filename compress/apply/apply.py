"""A smaller network out of a plan and a choice, which proves itself equal to the masked one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dropfold.compress.plan.choice import Choice, Chosen, check_choice, kept_positions
from dropfold.compress.plan.plan import Plan, removed, tensors
from dropfold.models.layers.low_rank import factors, product
from dropfold.models.layers.sizes import edge_matrices, resize, sizes_of

EQUAL = 1e-10  # largest difference between the small and the masked network in float64, relative to the largest output
EQUAL_IN_FLOAT32 = 1e-4  # for a network that does not run in float64


@torch.no_grad()
def masked(plan: Plan, choice: Chosen) -> nn.Module:
    """A copy of the model in which all numbers of the channels that do not stay are 0, and matrices with a rank are the
    nearest ones that have it: its size is the same."""
    choice = check_choice(plan, choice)
    model = _masked(plan, choice.channels)
    edges = edge_matrices(model)
    for name, rank in choice.ranks.items():
        weight: Any = model.get_submodule(name).weight
        down, up = factors(weight, rank, name in edges)
        weight.copy_(product(down.double(), up.double(), name in edges))
    return model


@torch.no_grad()
def apply(plan: Plan, choice: Chosen, *example: Any, **options: Any) -> tuple[nn.Module, Choice]:
    """The model with what was chosen, a new network of the same class, and the choice with the sizes of its layers.

    Args:
        plan: of the model, which is not changed.
        choice: the channels to keep of each group, by its name (groups that are not named keep all), alone or with the ranks
            of matrices.
        example, options: what the model is called with. On it the small network is compared in float64, in evaluation, with
            the model in which those channels are masked. Without one it is not compared.

    Raises:
        KeyError, ValueError: no such group, channel or matrix, or a rank that the matrix does not have.
        ArithmeticError: the small network fails, or computes something else: the plan does not know this network.
    """
    choice = check_choice(plan, choice)
    small, sizes = _build(plan, choice)
    if example or options:
        try:
            _compare(plan, choice, small, example, options)
        except ArithmeticError as error:
            raise ArithmeticError(f"{error} {_culprits(plan, choice, example, options)}") from None
    return small, Choice(choice.channels, choice.ranks, sizes)


def prunable(plan: Plan, *example: Any, **options: Any) -> Plan:
    """The plan without the groups that cannot lose channels, as where code knows a width by heart.

    Each is tried by itself, without its even and without its odd channels.
    """
    tries = [{group.name: list(range(start, group.size, 2)) for group in plan.groups} for start in (0, 1)]
    bad = dict.fromkeys(name for channels in tries for name in _unable(plan, channels, example, options))
    fixed = dict.fromkeys(bad, "the network's own code relies on its width, or on where its channels are")
    less = plan.without(*bad)
    return replace(less, fixed=dict(less.fixed) | fixed)


def _build(plan: Plan, choice: Choice) -> tuple[nn.Module, dict[str, list[int]]]:
    small = copy.deepcopy(plan.model)
    left = kept_positions(plan, choice.channels)
    state = {name: _part(value, left.get(name, {})) for name, value in plan.model.state_dict().items()}
    sizes = {
        name: _cut_size(small.get_submodule(name), name, size, state)
        for name, size in sizes_of(small).items()
    }
    edges = edge_matrices(small)
    for name, rank in choice.ranks.items():
        sizes[name] = [*sizes[name], rank]
        down, up = factors(state.pop(f"{name}.weight"), rank, name in edges)
        state |= {f"{name}.0.weight": down, f"{name}.1.weight": up}
        if f"{name}.bias" in state:
            state[f"{name}.1.bias"] = state.pop(f"{name}.bias")
    resize(small, sizes)
    small.load_state_dict(state)
    return small, sizes


def _culprits(plan: Plan, choice: Choice, example: Sequence[Any], options: Mapping[str, Any]) -> str:
    """What to leave out."""
    if not choice.channels:
        return "Only ranks are chosen: leave one out after the other to find which."
    bad = _unable(plan, choice.channels, example, options)
    if not bad:
        return "Each group alone can go without its channels; together they cannot."
    return f"Leave them out: plan.without({', '.join(map(repr, bad))})."


def _unable(
    plan: Plan, channels: Mapping[str, Sequence[int]], example: Sequence[Any], options: Mapping[str, Any]
) -> list[str]:
    """Which of the groups alone cannot keep these channels only."""
    bad = []
    for name, kept in channels.items():
        one = Choice({name: list(kept)} if kept else {})
        try:
            _compare(plan, one, _build(plan, one)[0], example, options)
        except ArithmeticError:
            bad.append(name)
    return bad


def _part(tensor: Tensor, left: Mapping[int, Tensor]) -> Tensor:
    """What stays of a tensor."""
    for axis, kept in left.items():
        tensor = tensor.index_select(axis, kept.nonzero().flatten().to(tensor.device))
    return tensor


def _masked(plan: Plan, channels: Mapping[str, Sequence[int]]) -> nn.Module:
    model = copy.deepcopy(plan.model)
    state = model.state_dict()
    for name, kept in channels.items():
        for tensor, axis, positions in removed(plan[name], kept):
            state[tensor].index_fill_(
                axis, positions.to(state[tensor].device), float(tensor.endswith("running_var"))
            )
    return model


def _cut_size(module: nn.Module, name: str, size: Sequence[int], state: Mapping[str, Tensor]) -> list[int]:
    """What is left of the size of a layer."""
    for kind in ("weight", "running_mean"):
        if (tensor := state.get(f"{name}.{kind}")) is not None:
            shape = list(tensor.shape[: len(size)])
            if (
                len(shape) == 2 and getattr(module, "groups", 1) > 1
            ):  # a depthwise convolution has one column a channel
                shape[1] = shape[0] if size[0] == size[1] == module.groups else size[1]
            return shape
    return list(size)


@torch.no_grad()
def _compare(
    plan: Plan, choice: Choice, small: nn.Module, example: Sequence[Any], options: Mapping[str, Any]
) -> None:
    """ArithmeticError if the small network is not the masked one, its matrices with a rank the products of the pairs."""
    whole, exactly = _masked(plan, choice.channels), copy.deepcopy(small).double()
    if choice.ranks:
        whole, edges, left = whole.double(), edge_matrices(whole), kept_positions(plan, choice.channels)
        for name in choice.ranks:
            down, up = exactly.get_submodule(name).children()
            weight: Any = whole.get_submodule(name).weight
            rows, columns = (
                left.get(f"{name}.weight", {}).get(axis, torch.ones(weight.shape[axis], dtype=torch.bool))
                for axis in (0, 1)
            )
            places = torch.meshgrid(rows.nonzero().flatten(), columns.nonzero().flatten(), indexing="ij")
            weight[places] = product(down.weight, up.weight, edges=name in edges)  # type: ignore[arg-type]

    dtype = next((p.dtype for p in small.parameters() if p.is_floating_point()), torch.float32)

    def run(model: nn.Module, exact: bool) -> list[Tensor]:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)  # of networks that draw in evaluation, as the first of their farthest points
            if not exact:
                return tensors(copy.deepcopy(model).to(dtype).eval()(*example, **options))
            inputs, more = tree_map(_double, (list(example), dict(options)))
            return tensors(copy.deepcopy(model).double().eval()(*inputs, **more))

    equal = EQUAL
    try:
        expected = run(whole, exact=True)
    except RuntimeError as error:  # its code knows float32 by heart
        expected, equal = run(whole, exact=False), EQUAL_IN_FLOAT32
        warnings.warn(
            f"{type(small).__name__} does not run in float64 ({error}); it is compared in {dtype}, to {equal:g} and not to "
            f"{EQUAL:g}.",
            stacklevel=3,
        )
    try:
        found = run(small, exact=equal == EQUAL)
    except Exception as error:
        raise ArithmeticError(
            f"{type(small).__name__} does not run with what was chosen ({error}): its code knows a width by heart, or "
            "the plan does not know what reads them."
        ) from error
    if not expected:
        raise ArithmeticError(f"{type(small).__name__} returns no tensor to compare.")
    for a, b in zip(found, expected, strict=True):
        if not b.isfinite().all():
            raise ArithmeticError(
                f"{type(small).__name__} returns NaN or infinities for this example; give it another one."
            )
        off, scale = float((a - b).abs().max()), float(b.abs().max())
        if not off <= equal * max(scale, 1.0):
            raise ArithmeticError(
                f"{type(small).__name__} with what was chosen differs from the model in which the rest is masked by {off:g} "
                f"of {scale:g}: something reads them that the plan does not know."
            )


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
