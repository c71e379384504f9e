"""A smaller network out of a plan and the channels that are kept, which proves itself equal to the masked one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.compress.plan.plan import Plan, removed, tensors
from dropfold.models.layers.sizes import resize, sizes_of

EQUAL = 1e-10  # largest difference between the small and the masked network in float64, relative to the largest output
EQUAL_IN_FLOAT32 = 1e-4  # for a network that does not run in float64


@dataclass(frozen=True)
class Choice:
    """What stays: the channels of each group that loses some, by their numbers in the original network.

    `sizes` are those of the small network's layers; with them `resize(factory(), choice.sizes)` builds it anew.
    """

    channels: dict[str, list[int]]
    sizes: dict[str, list[int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The choice as text, a group a line."""
        parts = {
            name: ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
            for name, part in (("channels", self.channels), ("sizes", self.sizes))
        }
        return "{\n" + ",\n".join(f'  "{name}": {{\n{lines}\n  }}' for name, lines in parts.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Choice:
        """A choice from its text; ValueError if it is none."""
        try:
            found = json.loads(text)
            channels, sizes = found["channels"], found["sizes"]
            if not all(
                isinstance(part, dict)
                and all(
                    isinstance(v, list) and all(type(n) is int and n >= 0 for n in v) for v in part.values()
                )
                for part in (channels, sizes)
            ):
                raise TypeError
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "a choice is a JSON object with channels and sizes, which map names to lists of numbers."
            ) from error
        return cls(channels, sizes)

    @classmethod
    def load(cls, path: Path) -> Choice:
        """A choice from its file."""
        return cls.from_json(path.read_text())


def check_channels(plan: Plan, channels: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The kept channels in order; ValueError or KeyError for what the plan does not have, and for a group that would end."""
    checked = {}
    for name, kept in channels.items():
        group, found = plan[name], sorted(set(map(int, kept)))
        if len(found) != len(kept) or not found or found[0] < 0 or found[-1] >= group.size:
            raise ValueError(
                f"{name} keeps channels {_shown(kept)}; expected one or more different ones of 0 .. {group.size - 1}."
            )
        checked[name] = found
    return checked


@torch.no_grad()
def masked(plan: Plan, channels: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the model in which all numbers of the channels that do not stay are 0: its size is the same."""
    model = copy.deepcopy(plan.model)
    state = model.state_dict()
    for name, kept in check_channels(plan, channels).items():
        for tensor, axis, positions in removed(plan[name], kept):
            state[tensor].index_fill_(
                axis, positions.to(state[tensor].device), float(tensor.endswith("running_var"))
            )
    return model


@torch.no_grad()
def apply(
    plan: Plan, channels: Mapping[str, Sequence[int]], *example: Any, **options: Any
) -> tuple[nn.Module, Choice]:
    """The model without the channels that do not stay, a new network of the same class, and the choice that says so.

    Args:
        plan: of the model, which is not changed.
        channels: the channels to keep of each group, by its name; groups that are not named keep all.
        example, options: what the model is called with. On it the small network is compared in float64, in evaluation, with
            the model in which those channels are masked. Without one it is not compared.

    Raises:
        KeyError, ValueError: no such group or channel.
        ArithmeticError: the small network fails, or computes something else: the plan does not know this network.
    """
    channels = check_channels(plan, channels)
    small, sizes = _build(plan, channels)
    if example:
        try:
            _compare(small, masked(plan, channels), example, options)
        except ArithmeticError as error:
            raise ArithmeticError(f"{error} {_culprits(plan, channels, example, options)}") from None
    return small, Choice(dict(channels), sizes)


def able(plan: Plan, *example: Any, **options: Any) -> Plan:
    """The plan without the groups that cannot lose a channel, each tried by itself, as where code knows a width by heart."""
    whole = {group.name: range(group.size) for group in plan.groups}
    bad = _unable(plan, whole, example, options)
    fixed = dict.fromkeys(bad, "the network's own code relies on its width, or on where its channels are")
    less = plan.without(*bad)
    return replace(less, fixed=dict(less.fixed) | fixed)


def _build(plan: Plan, channels: Mapping[str, Sequence[int]]) -> tuple[nn.Module, dict[str, list[int]]]:
    small = copy.deepcopy(plan.model)
    state = _cut(plan, channels)
    sizes = {
        name: _cut_size(small.get_submodule(name), name, size, state)
        for name, size in sizes_of(small).items()
    }
    resize(small, sizes)
    small.load_state_dict(state)
    return small, sizes


def _culprits(
    plan: Plan, channels: Mapping[str, Sequence[int]], example: Sequence[Any], options: Mapping[str, Any]
) -> str:
    """What to leave out."""
    bad = _unable(plan, channels, example, options)
    if not bad:
        return "Each group alone can lose a channel."
    return f"Leave them out: plan.without({', '.join(map(repr, bad))})."


def _unable(
    plan: Plan, channels: Mapping[str, Sequence[int]], example: Sequence[Any], options: Mapping[str, Any]
) -> list[str]:
    """Which of the groups cannot lose their first channel."""
    bad = []
    for name in channels:
        one = {name: range(1, plan[name].size)} if plan[name].size > 1 else {}
        try:
            _compare(_build(plan, one)[0], masked(plan, one), example, options)
        except ArithmeticError:
            bad.append(name)
    return bad


def _cut(plan: Plan, channels: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The state dict without what goes; a tensor that has several names in it is cut under each."""
    gone: dict[tuple[int, int], list[Tensor]] = {}
    whole = plan.model.state_dict(keep_vars=True)
    for name, kept in channels.items():
        for tensor, axis, positions in removed(plan[name], kept):
            gone.setdefault((id(whole[tensor]), axis), []).append(positions)
    state = {}
    for name, tensor in whole.items():
        state[name] = tensor.detach()
        for axis in range(2):
            if (parts := gone.get((id(tensor), axis))) is not None:
                stays = torch.ones(tensor.shape[axis], dtype=torch.bool)
                stays[torch.cat(parts)] = False
                state[name] = state[name].index_select(axis, stays.nonzero().flatten().to(tensor.device))
    return state


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
def _compare(small: nn.Module, whole: nn.Module, example: Sequence[Any], options: Mapping[str, Any]) -> None:
    def run(model: nn.Module, exact: bool) -> list[Tensor]:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)  # of networks that draw in evaluation, as the first of their farthest points
            if not exact:
                return tensors(copy.deepcopy(model).eval()(*example, **options))
            return tensors(copy.deepcopy(model).double().eval()(*map(_double, example), **options))

    equal = EQUAL
    try:
        expected = run(whole, exact=True)
    except RuntimeError:  # its code knows float32 by heart
        expected, equal = run(whole, exact=False), EQUAL_IN_FLOAT32
    try:
        found = run(small, exact=equal == EQUAL)
    except Exception as error:
        raise ArithmeticError(
            f"{type(small).__name__} does not run without these channels ({error}): its code knows a width by heart, or "
            "the plan does not know what reads them."
        ) from error
    for a, b in zip(found, expected, strict=True):
        off, scale = float((a - b).abs().max()), float(b.abs().max())
        if not off <= equal * max(scale, 1.0):
            raise ArithmeticError(
                f"{type(small).__name__} without these channels differs from the model in which they are masked by {off:g} "
                f"of {scale:g}: something reads them that the plan does not know."
            )


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _shown(numbers: Iterable[Any]) -> str:
    listed = list(numbers)
    return str(listed[:20])[:-1] + (", ...]" if len(listed) > 20 else "]")
