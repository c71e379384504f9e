"""States over time: in which order the frames are walked, which rows are active, and what is returned.

Time is the first dimension. A history `hs [T + 1, B, H]` holds the states before and after every step: step t goes from
`hs[t]` to `hs[t + 1]`, or, in reverse, from `hs[t + 1]` to `hs[t]`. A row is active in the steps t < length and keeps its
state in the others, so a reversed row begins with its own last frame.
"""

from __future__ import annotations

import torch
from torch import Tensor


def states_before(history: Tensor, reverse: bool) -> Tensor:
    """The states before each step [T, B, H]."""
    return history[1:] if reverse else history[:-1]


def states_after(history: Tensor, reverse: bool) -> Tensor:
    """The states after each step [T, B, H]."""
    return history[:-1] if reverse else history[1:]


def final_state(history: Tensor, reverse: bool) -> Tensor:
    """A copy of the state after the last step [B, H]."""
    return history[0 if reverse else -1].clone()


def output_states(hs: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """The states after each step, 0 where a row is inactive; a view of hs where all rows are active."""
    out, active = states_after(hs, reverse), active_rows(lengths, len(hs) - 1)
    return out if active is None else out.masked_fill(~active, 0)


def active_rows(lengths: Tensor | None, frames: int) -> Tensor | None:
    """bool [T, B, 1]: whether a row is active in step t; None: all are."""
    if lengths is None:
        return None
    return (torch.arange(frames, device=lengths.device)[:, None] < lengths)[..., None]
