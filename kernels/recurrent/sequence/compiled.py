"""What the compiled loops of lstm_sequence and gru_sequence share: their arguments, and how threads share the work.

Either each thread takes rows of the batch through all steps, and waits for no other; or, where U is dense and large and
the rows are few, all threads take the same step, each with units (columns of U) of its own.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.backend.numba import launch, njit, threads_for
from dropfold.kernels.backend.vector import elementwise
from dropfold.kernels.recurrent.kron.compiled import LEFT, RIGHT, Matrix, columns_per_panel, multiply_rows

MULTIPLY_ADDS_PER_NANOSECOND = 20  # of a core
MIN_SHARED_NANOSECONDS = 5e4  # of a sequence: less work is left to one thread
MIN_STEP_NANOSECONDS = 3e4  # of a step whose units are shared: threads wait for each other after every step
BYTES_OF_OWN_CACHE = 1 << 19  # a U above this is read from the cache that all cores share, at every step


class Steps(NamedTuple):
    """Sizes, the order of time, and which rows are active: t < lengths[b]."""

    frames: int
    batch: int
    hidden: int
    reverse: bool
    lengths: np.ndarray[Any, Any]  # int64 [B]
    keep_scale: Tensor  # [B H], or empty


class Shares(NamedTuple):
    """Each thread's part of a step, and how many steps it takes before it waits for the others."""

    parts: np.ndarray[
        Any, Any
    ]  # int64 [threads, 4]: first row, the row after the last, first unit, the unit after the last
    steps_together: int


class Strided(NamedTuple):
    """x [T, B, C] with any strides but 1 of C, as the memory that it lies in."""

    data: Tensor
    t: int
    b: int


def as_float(x: Tensor) -> Tensor:
    """In the type of the loops: float32, or float64 for itself."""
    return x.to(accumulator(x.dtype))


def plan_steps(
    like: Tensor, frames: int, reverse: bool, lengths: Tensor | None, keep_scale: Tensor | None
) -> Steps:
    """For states like [B, H]."""
    batch, hidden = like.shape
    keep_scale = like.new_empty(0) if keep_scale is None else keep_scale.to(like.dtype).reshape(-1)
    numbers = np.full(batch, frames) if lengths is None else lengths.numpy()
    return Steps(frames, batch, hidden, reverse, numbers, keep_scale)


def strided(x: Tensor) -> Strided:
    """A view of x, or of a copy if its last stride is not 1."""
    x = as_float(x)
    x = x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()
    (frames, batch, columns), (t, b, _) = x.shape, x.stride()
    return Strided(x.as_strided((t * (frames - 1) + b * (batch - 1) + columns,), (1,)), t, b)


def plan_shares(steps: Steps, *matrices: Matrix) -> Shares:
    """How many threads are worth it, and what each takes."""
    batch, hidden, threads = steps.batch, steps.hidden, torch.get_num_threads()
    work = sum(_multiply_adds(w) for w in matrices) * batch / MULTIPLY_ADDS_PER_NANOSECOND
    width = columns_per_panel(steps.keep_scale.dtype)
    dense = len(matrices) == 1 and matrices[0].form not in (LEFT, RIGHT) and hidden % width == 0
    size = sum(w.first.numel() * w.first.itemsize for w in matrices)
    few = batch < 4 * threads or (size > BYTES_OF_OWN_CACHE and batch < 32 * threads)
    if threads > 1 and dense and few and work > MIN_STEP_NANOSECONDS:
        cuts = [cut * width for cut in _cut(hidden // width, threads)]
        return Shares(np.array([(0, batch, first, last) for first, last in pairwise(cuts)]), 1)
    cuts = _cut(batch, threads if work * steps.frames > MIN_SHARED_NANOSECONDS else 1)
    return Shares(np.array([(first, last, 0, hidden) for first, last in pairwise(cuts)]), steps.frames)


def _multiply_adds(w: Matrix) -> int:
    """Of a row."""
    if w.form == RIGHT:
        return w.between * w.columns_in + w.rows_out * w.between
    if w.form == LEFT:
        return w.between * w.rows_in + w.between * w.columns_out
    return w.columns_in * w.columns_out


def _cut(number: int, parts: int) -> list[int]:
    """Where 0 .. number is cut into at most `parts` equal parts."""
    parts = max(1, min(parts, number))
    return [number * i // parts for i in range(parts + 1)]


def launch_shares(function: Any, shares: Shares, *arguments: Any) -> None:
    """Call a compiled loop over shares; of one share, without a thread pool, whose start takes longer than a short loop."""
    with threads_for(0 if len(shares.parts) == 1 else math.inf):
        launch(function, shares, *arguments)


@elementwise
def add(x, y):
    """x + y."""
    return (x + y,)


@elementwise
def add_scaled(x, scale, y):
    """x scale + y."""
    return (x.multiply_add(scale, y),)


@elementwise
def drop(h, keep_scale):
    """h times the keep scale."""
    return (h * keep_scale,)


@njit
def begin_dropped(hs, steps):
    """Space for h times the keep scale of this step and the next, with the first one's; empty without dropout."""
    numbers = steps.batch * steps.hidden if len(steps.keep_scale) else 0
    dropped = np.empty(2 * numbers, hs.dtype)
    drop(numbers, (hs, steps.frames * numbers if steps.reverse else 0, steps.keep_scale, 0, dropped, 0))
    return dropped


@njit
def copy(n, x, x_at, out, out_at):
    """n numbers."""
    for i in range(n):
        out[out_at + i] = x[x_at + i]


@njit
def step_indices(step, frames, reverse):
    """t, and the indices in a history of the states before and after it (history.py)."""
    t = frames - 1 - step if reverse else step
    return (t, t + 1, t) if reverse else (t, t, t + 1)


@njit
def add_state_gradient(t, u_transposed, dz, dz_at, dh, product, between, steps, share):
    """Add m (dz U^T), what h before step t is given back through the product with U, to dh of the active rows of a share.

    m is the keep scale, dz the gradients of the share's rows from `dz_at` on.
    """
    hidden, first, last, unit, n = steps.hidden, share[0], share[1], share[2], share[3] - share[2]
    multiply_rows(u_transposed, dz, dz_at, last - first, product, first * hidden, between, unit, n, 1)
    for b in range(first, last):
        if t < steps.lengths[b]:
            j = b * hidden + unit
            if len(steps.keep_scale):
                add_scaled(n, (product, j, steps.keep_scale, j, dh, j, dh, j))
            else:
                add(n, (product, j, dh, j, dh, j))
