"""What stays of a network, as plain data: channels by their numbers, ranks of matrices; checked against a plan."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropfold.compress.plan.matrices import why_no_pair
from dropfold.compress.plan.plan import Plan, removed
from dropfold.models.layers.low_rank import check_rank
from dropfold.models.layers.sizes import edge_matrices, sizes_of


@dataclass(frozen=True)
class Choice:
    """What stays: the channels of each group that loses some, by their numbers in the original network, and the rank of each
    matrix that two thin ones replace.

    `sizes` are those of the small network's layers; with them `resize(factory(), choice.sizes)` builds it anew.
    """

    channels: dict[str, list[int]]
    ranks: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The choice as text, a group or a matrix a line."""
        parts = {
            name: ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
            for name, part in (("channels", self.channels), ("ranks", self.ranks), ("sizes", self.sizes))
        }
        return "{\n" + ",\n".join(f'  "{name}": {{\n{lines}\n  }}' for name, lines in parts.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Choice:
        """A choice from its text; ValueError if it is none."""
        try:
            found = json.loads(text)
            channels, ranks, sizes = found["channels"], found.get("ranks", {}), found["sizes"]
            lists = [value for part in (channels, sizes) for value in part.values()]
            if not all(isinstance(value, list) and all(map(_is_count, value)) for value in lists):
                raise TypeError
            if not all(map(_is_count, ranks.values())):
                raise TypeError
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "a choice is a JSON object: channels and sizes map names to lists of numbers, ranks to one number each."
            ) from error
        return cls(channels, ranks, sizes)

    @classmethod
    def load(cls, path: Path) -> Choice:
        """A choice from its file."""
        return cls.from_json(path.read_text())


Chosen = Choice | Mapping[str, Sequence[int]]  # the channels alone


def check_choice(plan: Plan, choice: Chosen) -> Choice:
    """The choice, its channels in order.

    Raises:
        KeyError: no such group or matrix.
        ValueError: a channel that the group does not have, a group that would end, a rank that the matrix does not have.
    """
    if not isinstance(choice, Choice):
        choice = Choice({name: _listed(name, kept) for name, kept in choice.items()})
    channels = {name: _checked(plan, name, kept) for name, kept in choice.channels.items()}
    if choice.ranks:
        _check_ranks(plan, channels, choice.ranks)
    return Choice(channels, dict(choice.ranks), choice.sizes)


def kept_positions(plan: Plan, channels: Mapping[str, Sequence[int]]) -> dict[str, dict[int, Tensor]]:
    """tensor -> axis -> which positions stay, for each tensor of the state dict that loses some, under each of its names."""
    whole = plan.model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in whole.items():
        names.setdefault(id(tensor), []).append(name)
    found: dict[str, dict[int, Tensor]] = {}
    for group, kept in channels.items():
        for tensor, axis, positions in removed(plan[group], kept):
            for name in names[id(whole[tensor])]:
                everything = torch.ones(whole[tensor].shape[axis], dtype=torch.bool)
                found.setdefault(name, {}).setdefault(axis, everything)[positions] = False
    return found


def _checked(plan: Plan, name: str, kept: Sequence[int]) -> list[int]:
    group, found = plan[name], sorted(set(kept)) if all(map(_is_count, kept)) else []
    if len(found) != len(kept) or not found or found[-1] >= group.size:
        raise ValueError(
            f"{name} keeps channels {_shown(kept)}; expected one or more different ones of 0 .. {group.size - 1}."
        )
    return found


def _check_ranks(plan: Plan, channels: Mapping[str, Sequence[int]], ranks: Mapping[str, int]) -> None:
    left, edges = kept_positions(plan, channels), edge_matrices(plan.model)
    sizes, no_pair = sizes_of(plan.model), why_no_pair(plan.model)
    for name, rank in ranks.items():
        if len(sizes.get(name, ())) != 2:
            near = get_close_matches(name, sizes, 3) or sizes
            raise KeyError(
                f"{name!r} is no matrix or convolution of {type(plan.model).__name__} that can get a rank; there are "
                f"{', '.join(near)}."
            )
        if name in no_pair:
            raise ValueError(f"{name} gets no rank: {no_pair[name]}.")
        of = left.get(f"{name}.weight", {})
        out, inputs = (int(of[axis].sum()) if axis in of else sizes[name][axis] for axis in (0, 1))
        try:
            check_rank(plan.model.get_submodule(name), out, inputs, rank, name in edges)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _listed(name: str, kept: Any) -> list[int]:
    try:
        return [int(value) if isinstance(value, Tensor | np.integer) else value for value in kept]
    except TypeError as error:
        raise ValueError(f"{name} keeps a list of channel numbers; got {kept!r}.") from error


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _shown(numbers: Iterable[Any]) -> str:
    listed = list(numbers)
    return str(listed[:20])[:-1] + (", ...]" if len(listed) > 20 else "]")
