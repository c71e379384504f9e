"""gru_sequence on the CPU: one compiled loop over time."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.vector import elementwise, sigmoid, tanh
from dropfold.kernels.recurrent.gru_sequence.columns import split_columns
from dropfold.kernels.recurrent.gru_sequence.operation import empty_bwd_outputs, empty_fwd_outputs
from dropfold.kernels.recurrent.kron.compiled import Matrix, make_matrix, multiply_rows
from dropfold.kernels.recurrent.sequence.compiled import (
    add,
    add_scaled,
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


def gru_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    keep_scale: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    hs, gates = map(as_float, empty_fwd_outputs(gx, a, c, b_n, h0, lengths, keep_scale, reverse, save))
    frames, batch, columns = gx.shape
    start = frames if reverse else 0
    hs[start] = h0
    steps = plan_steps(hs[start], frames, reverse, lengths, keep_scale)
    matrices = _matrices(a, c, b_n, batch, frames, False)
    saved = gates if save else gates.new_empty(batch * columns // 3 * (3 if b_n is None else 4))
    x, products = strided(gx), hs.new_empty(batch * columns)
    if b_n is None:
        scratch = hs.new_empty(batch * h0.shape[1])
        arguments = x, *matrices, hs.view(-1), saved.view(-1), save, products, scratch, steps
        launch_shares(_forward_before, plan_shares(steps, *matrices), *arguments)
    else:
        arguments = x, *matrices, as_float(b_n), hs.view(-1), saved.view(-1), save, products, steps
        launch_shares(_forward_after, plan_shares(steps, *matrices), *arguments)
    return hs.to(gx.dtype), gates


def gru_sequence_bwd(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dgates, dh = empty_bwd_outputs(dout, dh_n, gates, hs, a, c, b_n, lengths, keep_scale, reverse)
    dh.copy_(dh_n)
    frames, batch, hidden = dout.shape
    steps = plan_steps(dh, frames, reverse, lengths, keep_scale)
    matrices = _matrices(a, c, b_n, batch, frames, True)
    flat = [x.view(-1) for x in (gates, as_float(hs), dgates, dh, torch.empty_like(dh))]
    # Of a step: the gradients that go through the products; of two steps where threads share units.
    sizes = (2, 1) if b_n is None else (2 * 3,)
    scratch = [dh.new_empty(number * batch * hidden) for number in sizes]
    function = _backward_before if b_n is None else _backward_after
    launch_shares(function, plan_shares(steps, *matrices), strided(dout), *matrices, *flat, *scratch, steps)
    return dgates, dh


def _matrices(
    a: Tensor, c: Tensor, b_n: Tensor | None, batch: int, frames: int, transposed: bool
) -> list[Matrix]:
    """U; or, if the reset stands before the product, the columns of r and z, and those of n."""
    parts = split_columns(as_float(a), as_float(c), True) if b_n is None else ((as_float(a), as_float(c)),)
    return [make_matrix(*factors, batch, frames, transposed) for factors in parts]


@elementwise
def _reset_after(p_r, p_z, p_n, x_r, x_z, x_n, b_n, h):
    """r, z, n, the product that r multiplies, and h, of a step."""
    r, z, product_n = sigmoid(p_r + x_r), sigmoid(p_z + x_z), p_n + b_n
    n = tanh(r.multiply_add(product_n, x_n))
    return r, z, n, product_n, z.multiply_add(h - n, n)


@elementwise
def _gradient_after(r, z, n, product_n, h_before, dout, dh):
    """Gradients at what the gates r, z, n are functions of, at n's product, and of h where z passes it on."""
    dh = dh + dout
    dn = dh * (1 - z) * (1 - n * n)
    return dn * product_n * r * (1 - r), dh * (h_before - n) * z * (1 - z), dn, dn * r, dh * z


@elementwise
def _reset(p_r, p_z, x_r, x_z, h):
    """r, z, and r h."""
    r, z = sigmoid(p_r + x_r), sigmoid(p_z + x_z)
    return r, z, r * h


@elementwise
def _update(p_n, x_n, z, h):
    """n, and h of the step."""
    n = tanh(p_n + x_n)
    return n, z.multiply_add(h - n, n)


@elementwise
def _gradient_update(z, n, h_before, dout, dh):
    """Gradients at what z and n are functions of, and of h where z passes it on."""
    dh = dh + dout
    return dh * (h_before - n) * z * (1 - z), dh * (1 - z) * (1 - n * n), dh * z


@elementwise
def _gradient_reset(r, h, dreset):
    """The gradient at what r is a function of, and of h in r h."""
    return dreset * h * r * (1 - r), dreset * r


@njit(parallel=True)
def _forward_after(shares, gx, u, b_n, hs, gates, save, products, steps):
    between, dropped = np.empty((len(shares.parts), u.between), hs.dtype), begin_dropped(hs, steps)
    for start in range(0, steps.frames, shares.steps_together):
        for i in prange(len(shares.parts)):
            for step in range(start, min(start + shares.steps_together, steps.frames)):
                _step_after(
                    step, gx, u, b_n, hs, gates, save, products, dropped, between[i], steps, shares.parts[i]
                )


@njit
def _step_after(step, gx, u, b_n, hs, gates, save, products, dropped, between, steps, share):
    """A step of the rows and units of a share."""
    batch, hidden = steps.batch, steps.hidden
    t, before, after = step_indices(step, steps.frames, steps.reverse)
    first, last, unit, n = share[0], share[1], share[2], share[3] - share[2]
    h, h_at = (dropped, step % 2 * batch * hidden) if len(dropped) else (hs, before * batch * hidden)
    h_at, to = h_at + first * hidden, first * 3 * hidden
    multiply_rows(u, h, h_at, last - first, products, to, between, unit, n, 3)
    for b in range(first, last):
        old, new = (before * batch + b) * hidden + unit, (after * batch + b) * hidden + unit
        if t < steps.lengths[b]:
            p, x = b * 3 * hidden + unit, t * gx.t + b * gx.b + unit
            g = ((t * batch if save else 0) + b) * 4 * hidden + unit
            _reset_after(n, (
                products, p, products, p + hidden, products, p + 2 * hidden,
                gx.data, x, gx.data, x + hidden, gx.data, x + 2 * hidden, b_n, unit, hs, old,
                gates, g, gates, g + hidden, gates, g + 2 * hidden, gates, g + 3 * hidden, hs, new,
            ))  # fmt: skip
        else:
            copy(n, hs, old, hs, new)
        if len(dropped):
            j = b * hidden + unit
            drop(n, (hs, new, steps.keep_scale, j, dropped, (step + 1) % 2 * batch * hidden + j))


@njit(parallel=True)
def _backward_after(shares, dout, u_transposed, gates, hs, dgates, dh, product, dproducts, steps):
    between = np.empty((len(shares.parts), u_transposed.between), dh.dtype)
    # A thread needs the gradients of all units of the step before, so it waits between them and the product with them,
    # and writes this step's beside them.
    for start in range(0, steps.frames + 1, shares.steps_together):
        for i in prange(len(shares.parts)):
            for step in range(start, min(start + shares.steps_together, steps.frames + 1)):
                if step > 0:
                    t = step_indices(steps.frames - step, steps.frames, steps.reverse)[0]
                    at = ((step - 1) % 2 * steps.batch + shares.parts[i, 0]) * 3 * steps.hidden
                    add_state_gradient(
                        t, u_transposed, dproducts, at, dh, product, between[i], steps, shares.parts[i]
                    )
                if step < steps.frames:
                    _step_gates_after(step, dout, gates, hs, dgates, dh, dproducts, steps, shares.parts[i])


@njit
def _step_gates_after(step, dout, gates, hs, dgates, dh, dproducts, steps, share):
    """Gradients of the gates of a step, back in time, and dh z; 0 and unchanged in inactive rows."""
    batch, hidden = steps.batch, steps.hidden
    t, before, _ = step_indices(steps.frames - 1 - step, steps.frames, steps.reverse)
    unit, n = share[2], share[3] - share[2]
    for b in range(share[0], share[1]):
        g, j = (t * batch + b) * 4 * hidden + unit, b * hidden + unit
        p = (step % 2 * batch + b) * 3 * hidden + unit
        if t < steps.lengths[b]:
            _gradient_after(n, (
                gates, g, gates, g + hidden, gates, g + 2 * hidden, gates, g + 3 * hidden,
                hs, (before * batch + b) * hidden + unit, dout.data, t * dout.t + b * dout.b + unit, dh, j,
                dgates, g, dgates, g + hidden, dgates, g + 2 * hidden, dgates, g + 3 * hidden, dh, j,
            ))  # fmt: skip
        else:
            for gate in range(4):
                dgates[g + gate * hidden : g + gate * hidden + n] = 0
        copy(n, dgates, g, dproducts, p)
        copy(n, dgates, g + hidden, dproducts, p + hidden)
        copy(n, dgates, g + 3 * hidden, dproducts, p + 2 * hidden)


@njit(parallel=True)
def _forward_before(shares, gx, u_rz, u_n, hs, gates, save, products, reset_h, steps):
    between, dropped = (
        np.empty((len(shares.parts), max(u_rz.between, u_n.between)), hs.dtype),
        begin_dropped(hs, steps),
    )
    for i in prange(len(shares.parts)):
        for step in range(steps.frames):
            _step_before(
                step, gx, u_rz, u_n, hs, gates, save, products, reset_h, dropped, between[i], steps, shares.parts[i]
            )  # fmt: skip


@njit
def _step_before(step, gx, u_rz, u_n, hs, gates, save, products, reset_h, dropped, between, steps, share):
    """A step of the rows of a share."""
    batch, n = steps.batch, steps.hidden
    t, before, after = step_indices(step, steps.frames, steps.reverse)
    first, last = share[0], share[1]
    h, h_at = (dropped, step % 2 * batch * n) if len(dropped) else (hs, before * batch * n)
    at, to = (t * batch if save else 0) * 3 * n, first * 3 * n
    multiply_rows(u_rz, h, h_at + first * n, last - first, products, to, between, 0, n, 2)
    for b in range(first, last):
        if t < steps.lengths[b]:
            p, x, g = to + (b - first) * 2 * n, t * gx.t + b * gx.b, at + b * 3 * n
            arguments = products, p, products, p + n, gx.data, x, gx.data, x + n, h, h_at + b * n
            _reset(n, (*arguments, gates, g, gates, g + n, reset_h, b * n))
        else:
            reset_h[b * n : (b + 1) * n] = 0
    multiply_rows(u_n, reset_h, first * n, last - first, products, to, between, 0, n, 1)
    for b in range(first, last):
        old, new = (before * batch + b) * n, (after * batch + b) * n
        if t < steps.lengths[b]:
            p, x, g = to + (b - first) * n, t * gx.t + b * gx.b + 2 * n, at + b * 3 * n
            _update(n, (products, p, gx.data, x, gates, g + n, hs, old, gates, g + 2 * n, hs, new))
        else:
            copy(n, hs, old, hs, new)
        if len(dropped):
            drop(n, (hs, new, steps.keep_scale, b * n, dropped, (step + 1) % 2 * batch * n + b * n))


@njit(parallel=True)
def _backward_before(
    shares, dout, u_rz_transposed, u_n_transposed, gates, hs, dgates, dh, product, drz, dn, steps
):
    between = np.empty((len(shares.parts), max(u_rz_transposed.between, u_n_transposed.between)), dh.dtype)
    for i in prange(len(shares.parts)):
        for step in range(steps.frames):
            _step_back_before(
                step, dout, u_rz_transposed, u_n_transposed, gates, hs, dgates, dh, product, drz, dn, between[i], steps,
                shares.parts[i],
            )  # fmt: skip


@njit
def _step_back_before(
    step,
    dout,
    u_rz_transposed,
    u_n_transposed,
    gates,
    hs,
    dgates,
    dh,
    product,
    drz,
    dn,
    between,
    steps,
    share,
):
    """Gradients of the gates of a step of the rows of a share, back in time, and dh before it."""
    batch, n = steps.batch, steps.hidden
    t, before, _ = step_indices(steps.frames - 1 - step, steps.frames, steps.reverse)
    first, last = share[0], share[1]
    h_before = np.empty(n, hs.dtype)
    for b in range(first, last):
        g, j, old = (t * batch + b) * 3 * n, b * n, (before * batch + b) * n
        if t < steps.lengths[b]:
            _gradient_update(n, (
                gates, g + n, gates, g + 2 * n, hs, old, dout.data, t * dout.t + b * dout.b, dh, j,
                dgates, g + n, dgates, g + 2 * n, dh, j,
            ))  # fmt: skip
        else:
            dgates[g : g + 3 * n] = 0
        copy(n, dgates, g + 2 * n, dn, j)
        copy(n, dgates, g + n, drz, 2 * j + n)
    multiply_rows(u_n_transposed, dn, first * n, last - first, product, first * n, between, 0, n, 1)
    for b in range(first, last):
        g, j, old = (t * batch + b) * 3 * n, b * n, (before * batch + b) * n
        if t < steps.lengths[b]:
            h, h_at = hs, old
            if len(steps.keep_scale):
                drop(n, (hs, old, steps.keep_scale, j, h_before, 0))
                h, h_at = h_before, 0
            # dn is n's gradient no longer: it takes that of h in r h.
            _gradient_reset(n, (gates, g, h, h_at, product, j, dgates, g, dn, j))
        copy(n, dgates, g, drz, 2 * j)
    multiply_rows(u_rz_transposed, drz, 2 * first * n, last - first, product, first * n, between, 0, n, 1)
    for b in range(first, last):
        if t < steps.lengths[b]:
            j = b * n
            add(n, (product, j, dn, j, product, j))
            if len(steps.keep_scale):
                add_scaled(n, (product, j, steps.keep_scale, j, dh, j, dh, j))
            else:
                add(n, (product, j, dh, j, dh, j))
