"""Which channels of which layers belong together, as a value that can be printed and vetoed.

A channel is a row of the matrix that makes it, its numbers in a BatchNorm, and the columns of the matrices that read it: all
of them go, or none. Channels that the same matrix makes are a group; where several matrices add to one stream, their
channels are one group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Slices(NamedTuple):
    """Where a tensor of the state dict holds the channels of a group: `positions` [C, m] along `axis`, m of each channel."""

    tensor: str
    axis: int
    positions: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that belong together, named by the layer that makes them."""

    name: str
    slices: tuple[Slices, ...]

    @property
    def size(self) -> int:
        """How many channels."""
        return len(self.slices[0].positions)

    def __str__(self) -> str:
        made = [
            s.tensor.rpartition(".")[0] for s in self.slices if s.axis == 0 and s.tensor.endswith("weight")
        ]
        read = [s.tensor.rpartition(".")[0] for s in self.slices if s.axis == 1]
        return f"{self.name}: {self.size} channels of {', '.join(made)}, read by {', '.join(dict.fromkeys(read))}"


@dataclass(frozen=True)
class Plan:
    """What may go from `model`.

    fixed: module -> a sentence why its channels stay, for each whose channels are in no group.
    """

    model: nn.Module
    groups: tuple[Group, ...]
    fixed: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(self._unknown(name))

    def without(self, *names: str) -> Plan:
        """The plan in which the channels of these groups stay; KeyError for a name that is none's."""
        for name in names:
            self[name]
        fixed = dict(self.fixed) | dict.fromkeys(names, "vetoed")
        return replace(self, groups=tuple(g for g in self.groups if g.name not in names), fixed=fixed)

    def _unknown(self, name: str) -> str:
        names = [group.name for group in self.groups]
        near = get_close_matches(name, names, 3) or names
        why = f" ({self.fixed[name]})" if name in self.fixed else ""
        return f"{name!r} is no group of this plan{why}; there are {', '.join(near)}."

    def __str__(self) -> str:
        lines = [str(group) for group in self.groups]
        lines += [f"stays: {name}, {why}" for name, why in self.fixed.items()]
        return "\n".join(lines)


def removed(group: Group, kept: Iterable[int]) -> list[tuple[str, int, Tensor]]:
    """For each of the group's slices (tensor, axis, positions [r] that go with the channels that are not kept)."""
    drop = torch.ones(group.size, dtype=torch.bool)
    drop[list(kept)] = False
    return [(s.tensor, s.axis, s.positions[drop].flatten().unique()) for s in group.slices]


def tensors(value: Any) -> list[Tensor]:
    """The tensors in what a model returns: one, or some in lists, tuples, mappings and dataclasses.

    Raises:
        TypeError: it holds something else, in which tensors may hide.
    """
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, part.name) for part in fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [t for part in value for t in tensors(part)]
    if value is None or isinstance(value, bool | int | float | str):
        return []
    raise TypeError(
        f"a network must return tensors, in lists, tuples, mappings or dataclasses; got {type(value).__name__}. Wrap it "
        "in a module that returns its tensors."
    )
