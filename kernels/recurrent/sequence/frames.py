"""What lstm_sequence and gru_sequence share: the order of time, lengths, recurrent dropout, checks, launches, outputs.

Time is the first dimension. A history `hs [T + 1, B, H]` holds the state before and after every step: step t goes from
`hs[t]` to `hs[t + 1]`, or, in reverse, from `hs[t + 1]` to `hs[t]`. A row takes part in step t < length and stands still
in the others, so a reversed row begins with its own last frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.launch import all_registers, precision
from dropfold.kernels.noise.philox.operation import as_seed, uniform
from dropfold.kernels.recurrent.kron.products import check_kron, tiles


def steps(frames: int, reverse: bool) -> Iterator[tuple[int, int, int]]:
    """(t, place of the state before, place of the state after) of each step."""
    for t in reversed(range(frames)) if reverse else range(frames):
        yield (t, t + 1, t) if reverse else (t, t, t + 1)


def before(history: Tensor, reverse: bool) -> Tensor:
    """States before each step, by t."""
    return history[1:] if reverse else history[:-1]


def after(history: Tensor, reverse: bool) -> Tensor:
    """States after each step, by t."""
    return history[:-1] if reverse else history[1:]


def last(history: Tensor, reverse: bool) -> Tensor:
    """The state after the last step."""
    return history[0 if reverse else -1]


def outputs(hs: Tensor, lengths: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """What a sequence returns of its history: out, 0 where a row stands still, and h_n."""
    out, there = after(hs, reverse), taking_part(lengths, len(hs) - 1)
    out = out.clone() if there is None else out.masked_fill(~there, 0)
    return out, last(hs, reverse).clone()


def multiplied(hs: Tensor, factor: Tensor | None, reverse: bool) -> Tensor:
    """What was multiplied by U at each step: the state before it, after the recurrent dropout."""
    h = before(hs, reverse)
    return h if factor is None else h * factor.to(h.dtype)


def taking_part(lengths: Tensor | None, frames: int) -> Tensor | None:
    """bool [T, B, 1]: whether a row takes part in step t."""
    if lengths is None:
        return None
    return (torch.arange(frames, device=lengths.device)[:, None] < lengths)[..., None]


def recurrent_factor(
    rate: float, batch: int, hidden: int, like: Tensor, seed: Tensor | None
) -> Tensor | None:
    """What recurrent dropout multiplies h by before its product: 0 or 1 / (1 - rate), float32 [B, H], one for all steps.

    Number b H + i of the stream `seed` decides on unit i of row b [Gal & Ghahramani 2016, variational dropout].
    """
    if not 0 <= rate < 1:
        raise ValueError(f"recurrent dropout must be at least 0 and below 1; got {rate}.")
    if rate == 0:
        return None
    u = uniform(as_seed(seed, like.device), batch * hidden)
    return (u >= rate).view(batch, hidden) / (1 - rate)


def needs_grad(*inputs: Tensor | None) -> bool:
    """Whether backward can follow, and need the gates. (Inside an autograd function `no_grad` is not seen.)"""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def check_sequence(
    gx: Tensor, a: Tensor, c: Tensor, gates: int, h0: Tensor | None, lengths: Tensor | None
) -> int:
    """Refuse what does not fit together; returns H."""
    rows, columns = check_kron(a, c)
    if columns != gates * rows:
        raise ValueError(
            f"a and c must make a matrix [H, {gates} H]; a {describe(a)} and c {describe(c)} make [{rows}, {columns}]."
        )
    if gx.dim() != 3 or gx.shape[2] != columns or 0 in gx.shape:
        raise ValueError(f"gx must be [T, B, {columns}] with T, B >= 1; got {describe(gx)}.")
    if h0 is not None and h0.shape != (gx.shape[1], rows):
        raise ValueError(f"a first state must be [B, H] = [{gx.shape[1]}, {rows}]; got {describe(h0)}.")
    if lengths is not None:
        check_lengths(lengths, gx.shape[1], gx.shape[0])
        if lengths.device != gx.device:
            raise ValueError(f"lengths must be where gx is, on {gx.device}; they are on {lengths.device}.")
    return rows


def check_lengths(lengths: Tensor, batch: int, frames: int) -> None:
    """Refuse what is not the frames of each row, from 1 to T; on a GPU a look at them would make every step wait."""
    known = isinstance(lengths, Tensor)
    if not known or lengths.shape != (batch,) or lengths.dtype != torch.int64:
        given = describe(lengths) if known else lengths
        raise ValueError(f"lengths must be an int64 tensor [{batch}], the frames of each row; got {given}.")
    if lengths.is_cpu and not torch.compiler.is_compiling():
        least, most = (int(n) for n in lengths.aminmax())
        if least < 1 or most > frames:
            raise ValueError(f"lengths must be from 1 to T = {frames}; got {least} to {most}.")


def with_unit_stride(x: Tensor) -> Tensor:
    """x [T, B, C] as the kernels take it: at any strides but that of C."""
    return x if x.stride(2) == 1 else x.contiguous()


def launch_options(a: Tensor, lengths: Tensor | None, factor: Tensor | None, reverse: bool) -> dict[str, Any]:
    """The constants that all kernels of sequences take."""
    return dict(
        REVERSE=int(reverse), DROPPED=factor is not None, LENGTHS=lengths is not None, BLOCK=512, **tiles(a.dtype),
        PRECISION=precision(a), **all_registers(),
    )  # fmt: skip
