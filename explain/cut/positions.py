"""From the centres of set abstraction back to points: the adjoint of the max.

What a channel of a centre scores goes to the member of its ball that won the channel's max, so the sum is kept, which an
interpolation from centres to points would not do. That member is a centre of the level below, or a point; what it has
gathered over all channels goes on in equal parts to the winners of its own channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dropfold.explain.cut.inputs import Inputs


class Winners:
    """While it is open, notes which row of points won each channel of each centre: of `levels`, the last one first."""

    def __init__(self, network: nn.Module, levels: tuple[str, ...]) -> None:
        self.levels: list[Any] = [network.get_submodule(name) for name in levels]
        self.rows: dict[nn.Module, Tensor] = {}
        self.handles: list[Any] = []

    def __enter__(self) -> Winners:
        for level in self.levels:
            for mlp in level.scales:
                self.handles.append(mlp.register_forward_pre_hook(_ask, with_kwargs=True))
                self.handles.append(mlp.register_forward_hook(self._note))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _note(self, mlp: nn.Module, args: Any, out: Any) -> Tensor:
        maximum, self.rows[mlp] = out
        return maximum

    def centres(self, inputs: Inputs) -> int:
        """How many centres of each cloud the last level has."""
        return len(self.rows[self.levels[0].scales[0]]) // inputs.samples

    def carry(self, contributions: Tensor, inputs: Inputs) -> Tensor:
        """The map of contributions [.., C]: their sum over channels, at the points that the inputs hold. With a single
        channel they are of whole centres, and go in equal parts to the winners."""
        if not self.levels:
            return contributions.sum(-1)
        of_channels = contributions.flatten(0, -2)
        for i, level in enumerate(self.levels):
            winners = torch.cat([self.rows[mlp] for mlp in level.scales], -1)
            if of_channels.shape[1] == 1:  # of a centre as a whole
                of_channels = (of_channels / winners.shape[1]).expand(winners.shape)
            below = len(inputs.x.flatten(0, -2))
            if i + 1 < len(self.levels):
                below = len(self.rows[self.levels[i + 1].scales[0]])
            scores = give_to_points(of_channels, winners, below)
            of_channels = scores[:, None]
        return scores.view(inputs.x.shape[:-1])


def give_to_points(contributions: Tensor, winners: Tensor, rows: int) -> Tensor:
    """[rows]: contributions [G, C] added up where each channel's max was won, winners int64 [G, C]."""
    out = contributions.new_zeros(rows)
    return out.index_add(0, winners.flatten(), contributions.flatten())


def _ask(mlp: nn.Module, args: Any, kwargs: Any) -> Any:
    return args, kwargs | {"return_argmax": True}
