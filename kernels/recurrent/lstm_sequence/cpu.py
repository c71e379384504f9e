"""lstm_sequence on the CPU: one compiled loop over time."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.vector import elementwise, sigmoid, tanh
from dropfold.kernels.recurrent.kron.compiled import make_matrix, multiply_rows
from dropfold.kernels.recurrent.lstm_sequence.operation import empty_bwd_outputs, empty_fwd_outputs
from dropfold.kernels.recurrent.sequence.compiled import (
    add_state_gradient,
    as_float,
    begin_dropped,
    copy,
    drop,
    launch_shares,
    plan_shares,
    plan_steps,
    step_indices,
    strided,
)


def lstm_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, keep_scale: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    outputs = empty_fwd_outputs(gx, a, c, h0, c0, lengths, keep_scale, reverse, save)
    hs, cs, gates = map(as_float, outputs)
    frames, batch, columns = gx.shape
    start = frames if reverse else 0
    hs[start], cs[start] = h0, c0
    steps = plan_steps(hs[start], frames, reverse, lengths, keep_scale)
    u = make_matrix(as_float(a), as_float(c), batch, frames, False)
    z = gates if save else gates.new_empty(batch * columns)
    launch_shares(
        _forward, plan_shares(steps, u), strided(gx), u, hs.view(-1), cs.view(-1), z.view(-1), save, steps
    )
    return hs.to(gx.dtype), cs, gates.to(gx.dtype)


def lstm_sequence_bwd(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    outputs = empty_bwd_outputs(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, keep_scale, reverse)
    dz, dh, dc = map(as_float, outputs)
    dh.copy_(dh_n)
    dc.copy_(dc_n)
    frames, batch, _ = dout.shape
    steps = plan_steps(dh, frames, reverse, lengths, keep_scale)
    u_transposed = make_matrix(as_float(a), as_float(c), batch, frames, True)
    flat = (x.view(-1) for x in (as_float(gates), cs, dz, dh, dc, torch.empty_like(dh)))
    launch_shares(_backward, plan_shares(steps, u_transposed), strided(dout), u_transposed, *flat, steps)
    return dz.to(gates.dtype), dh, dc


@elementwise
def _cell(z_i, z_f, z_g, z_o, x_i, x_f, x_g, x_o, c):
    """i, f, g, o, c, h of a step."""
    i, f, g, o = sigmoid(z_i + x_i), sigmoid(z_f + x_f), tanh(z_g + x_g), sigmoid(z_o + x_o)
    c = f.multiply_add(c, i * g)
    return i, f, g, o, c, o * tanh(c)


@elementwise
def _cell_gradient(i, f, g, o, c_before, c_after, dout, dh, dc):
    """dz of i, f, g, o, and dc before the step."""
    dh, tanh_c = dh + dout, tanh(c_after)
    dc = (dh * o).multiply_add(1 - tanh_c * tanh_c, dc)
    return (
        dc * g * i * (1 - i),
        dc * c_before * f * (1 - f),
        dc * i * (1 - g * g),
        dh * tanh_c * o * (1 - o),
        dc * f,
    )


@njit(parallel=True)
def _forward(shares, gx, u, hs, cs, z, save, steps):
    between, dropped = np.empty((len(shares.parts), u.between), hs.dtype), begin_dropped(hs, steps)
    for start in range(0, steps.frames, shares.steps_together):
        for i in prange(len(shares.parts)):
            for step in range(start, min(start + shares.steps_together, steps.frames)):
                _step(step, gx, u, hs, cs, z, save, dropped, between[i], steps, shares.parts[i])


@njit
def _step(step, gx, u, hs, cs, z, save, dropped, between, steps, share):
    """A step of the rows and units of a share."""
    batch, hidden = steps.batch, steps.hidden
    t, before, after = step_indices(step, steps.frames, steps.reverse)
    first, last, unit, n = share[0], share[1], share[2], share[3] - share[2]
    z_t = t * batch * 4 * hidden if save else 0
    h, h_at = (dropped, step % 2 * batch * hidden) if len(dropped) else (hs, before * batch * hidden)
    h_at, z_at = h_at + first * hidden, z_t + first * 4 * hidden
    multiply_rows(u, h, h_at, last - first, z, z_at, between, unit, n, 4)
    for b in range(first, last):
        old, new = (before * batch + b) * hidden + unit, (after * batch + b) * hidden + unit
        if t < steps.lengths[b]:
            i = z_t + b * 4 * hidden + unit
            f, g, o = i + hidden, i + 2 * hidden, i + 3 * hidden
            x_i = t * gx.t + b * gx.b + unit
            x_f, x_g, x_o = x_i + hidden, x_i + 2 * hidden, x_i + 3 * hidden
            x = gx.data
            _cell(n, (
                z, i, z, f, z, g, z, o, x, x_i, x, x_f, x, x_g, x, x_o, cs, old,
                z, i, z, f, z, g, z, o, cs, new, hs, new,
            ))  # fmt: skip
        else:
            copy(n, hs, old, hs, new)
            copy(n, cs, old, cs, new)
            for gate in range(4 * save):
                start = z_t + (b * 4 + gate) * hidden + unit
                z[start : start + n] = 0
        if len(dropped):
            j = b * hidden + unit
            drop(n, (hs, new, steps.keep_scale, j, dropped, (step + 1) % 2 * batch * hidden + j))


@njit(parallel=True)
def _backward(shares, dout, u_transposed, gates, cs, dz, dh, dc, product, steps):
    between = np.empty((len(shares.parts), u_transposed.between), dh.dtype)
    # A thread needs the dz of all units of the step before, so it waits between a step's dz and the product with it.
    for start in range(0, steps.frames + 1, shares.steps_together):
        for i in prange(len(shares.parts)):
            for step in range(start, min(start + shares.steps_together, steps.frames + 1)):
                if step > 0:
                    t = step_indices(steps.frames - step, steps.frames, steps.reverse)[0]
                    at = (t * steps.batch + shares.parts[i, 0]) * 4 * steps.hidden
                    add_state_gradient(
                        t, u_transposed, dz, at, dh, product, between[i], steps, shares.parts[i]
                    )
                if step < steps.frames:
                    _step_gates(step, dout, gates, cs, dz, dh, dc, steps, shares.parts[i])


@njit
def _step_gates(step, dout, gates, cs, dz, dh, dc, steps, share):
    """dz of a step, back in time, dc before it, and dh before it but for what comes through dz, which is 0.

    In inactive rows dz is 0, dc and dh are as they were.
    """
    batch, hidden = steps.batch, steps.hidden
    t, before, after = step_indices(steps.frames - 1 - step, steps.frames, steps.reverse)
    unit, n = share[2], share[3] - share[2]
    for b in range(share[0], share[1]):
        i = (t * batch + b) * 4 * hidden + unit
        f, g, o = i + hidden, i + 2 * hidden, i + 3 * hidden
        if t < steps.lengths[b]:
            c_before, c_after = (before * batch + b) * hidden + unit, (after * batch + b) * hidden + unit
            x, j = t * dout.t + b * dout.b + unit, b * hidden + unit
            _cell_gradient(n, (
                gates, i, gates, f, gates, g, gates, o, cs, c_before, cs, c_after, dout.data, x, dh, j, dc, j,
                dz, i, dz, f, dz, g, dz, o, dc, j,
            ))  # fmt: skip
            dh[j : j + n] = 0
        else:
            for start in (i, f, g, o):
                dz[start : start + n] = 0
