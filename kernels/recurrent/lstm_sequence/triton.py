"""The Triton kernels of lstm_sequence: a program takes some rows of the batch through all steps.

Its threads hand on states, gates and products through memory that no other program touches; a barrier stands between.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.kron.triton import kron_product, plan_launch, rows_together
from dropfold.kernels.recurrent.lstm_sequence.operation import empty_bwd_outputs, empty_fwd_outputs
from dropfold.kernels.recurrent.sequence.triton import (
    active_mask,
    drop_units,
    launch_options,
    load,
    sigmoid,
    state_block,
    tanh,
    with_unit_stride,
)


def lstm_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, keep_scale: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hs, cs, gates = empty_fwd_outputs(gx, a, c, h0, c0, lengths, keep_scale, reverse, save)
    frames, batch, columns = gx.shape
    (s, p, u), (_, q, v) = a.shape, c.shape
    start = frames if reverse else 0
    hs[start], cs[start] = h0, c0
    plan = plan_launch(a, c)
    together = rows_together(batch, *plan.rows)
    z = gx.new_empty((batch, columns), dtype=torch.float32)
    between = z.new_empty((batch, plan.between))
    gx = with_unit_stride(gx)
    _lstm_sequence_fwd_kernel[(cdiv(batch, together),)](
        *(gx, gx.stride(0), gx.stride(1), plan.first, plan.second, keep_scale, lengths),
        *(hs, cs, gates, z, between, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=plan.right, SAVE=save,
        **launch_options(a, lengths, keep_scale, reverse),
    )  # fmt: skip
    return hs, cs, gates


def lstm_sequence_bwd(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dz, dh, dc = empty_bwd_outputs(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, keep_scale, reverse)
    dh.copy_(dh_n)
    dc.copy_(dc_n)
    frames, batch, _ = dout.shape
    a, c = a.mT, c.mT
    (s, p, u), (_, q, v) = a.shape, c.shape
    plan = plan_launch(a, c)
    together = rows_together(batch, *plan.rows)
    dh_before, between = torch.empty_like(dh), dh.new_empty((batch, plan.between))
    dout = with_unit_stride(dout)
    _lstm_sequence_bwd_kernel[(cdiv(batch, together),)](
        *(dout, dout.stride(0), dout.stride(1), gates, plan.first, plan.second, keep_scale, lengths),
        *(cs, dz, dh, dc, dh_before, between, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=plan.right,
        **launch_options(a, lengths, keep_scale, reverse),
    )  # fmt: skip
    return dz, dh, dc


@jit
def _lstm_sequence_fwd_kernel(
    p_gx, gx_t, gx_b, p_first, p_second, p_keep_scale, p_lengths, p_hs, p_cs, p_gates, p_z, p_between, frames, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, REVERSE: tl.constexpr, SAVE: tl.constexpr, DROPPED: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    H: tl.constexpr = P * Q
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    stop = tl.minimum(first + TOGETHER, batch)
    elements = (stop - first).to(tl.int32) * H
    state = tl.full((), H, tl.int64) * batch  # a batch of 1 is a constant, which has no `.to`
    for step in range(frames):
        t = tl.full((), 0, tl.int64) + (frames - 1 - step if REVERSE else step)
        before, after = (t + REVERSE) * state, (t + 1 - REVERSE) * state
        kron_product(
            p_hs + before, H, p_keep_scale, p_first, p_second, p_keep_scale, p_between, p_z, first, stop, 1.0, 0.0,
            S, P, Q, U, V, RIGHT, False, DROPPED, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        for e in range(0, elements, BLOCK):
            b, i_h, mask = state_block(e, first, stop, H, BLOCK)
            o_s = b * H + i_h
            o_z = b * (4 * H) + i_h
            o_gx = t * gx_t + b * gx_b + i_h
            i = sigmoid(load(p_z + o_z, mask) + load(p_gx + o_gx, mask))
            f = sigmoid(load(p_z + o_z + H, mask) + load(p_gx + o_gx + H, mask))
            g = tanh(load(p_z + o_z + 2 * H, mask) + load(p_gx + o_gx + 2 * H, mask))
            o = sigmoid(load(p_z + o_z + 3 * H, mask) + load(p_gx + o_gx + 3 * H, mask))
            c_before = load(p_cs + before + o_s, mask)
            kept = f * c_before
            c = kept + i * g
            h = o * tanh(c)
            if LENGTHS:
                active = active_mask(p_lengths, b, t, mask, LENGTHS)
                c = tl.where(active, c, c_before)
                h = tl.where(active, h, load(p_hs + before + o_s, mask))
            tl.store(p_cs + after + o_s, c, mask=mask)
            tl.store(p_hs + after + o_s, h, mask=mask)
            if SAVE:
                o_gates = t * (4 * state) + o_z
                tl.store(p_gates + o_gates, i, mask=mask)
                tl.store(p_gates + o_gates + H, f, mask=mask)
                tl.store(p_gates + o_gates + 2 * H, g, mask=mask)
                tl.store(p_gates + o_gates + 3 * H, o, mask=mask)
        tl.debug_barrier()


@jit
def _lstm_sequence_bwd_kernel(
    p_dout, dout_t, dout_b, p_gates, p_first, p_second, p_keep_scale, p_lengths, p_cs, p_dz, p_dh, p_dc, p_dh_before,
    p_between, frames, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, REVERSE: tl.constexpr, DROPPED: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Here P, Q, U, V are those of U^T: x is dz [P Q] = [4 H], y is dh [U V] = [H]. dh and dc hold the gradients of the
    states after step t, and then of those before it."""
    H: tl.constexpr = U * V
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    stop = tl.minimum(first + TOGETHER, batch)
    elements = (stop - first).to(tl.int32) * H
    state = tl.full((), H, tl.int64) * batch  # a batch of 1 is a constant, which has no `.to`
    for step in range(frames):
        t = tl.full((), 0, tl.int64) + (step if REVERSE else frames - 1 - step)
        for e in range(0, elements, BLOCK):
            b, i_h, mask = state_block(e, first, stop, H, BLOCK)
            active = active_mask(p_lengths, b, t, mask, LENGTHS)
            o_s = b * H + i_h
            o_z = t * (4 * state) + b * (4 * H) + i_h
            i, f = load(p_gates + o_z, mask), load(p_gates + o_z + H, mask)
            g, o = load(p_gates + o_z + 2 * H, mask), load(p_gates + o_z + 3 * H, mask)
            c_before = load(p_cs + (t + REVERSE) * state + o_s, mask)
            tanh_c = tanh(load(p_cs + (t + 1 - REVERSE) * state + o_s, mask))
            dh = load(p_dh + o_s, mask) + load(p_dout + t * dout_t + b * dout_b + i_h, active)
            dc_after = load(p_dc + o_s, mask)
            dc = dc_after + dh * o * (1 - tanh_c * tanh_c)
            tl.store(p_dz + o_z, tl.where(active, dc * g * i * (1 - i), 0.0), mask=mask)
            tl.store(p_dz + o_z + H, tl.where(active, dc * c_before * f * (1 - f), 0.0), mask=mask)
            tl.store(p_dz + o_z + 2 * H, tl.where(active, dc * i * (1 - g * g), 0.0), mask=mask)
            tl.store(p_dz + o_z + 3 * H, tl.where(active, dh * tanh_c * o * (1 - o), 0.0), mask=mask)
            tl.store(p_dc + o_s, tl.where(active, dc * f, dc_after), mask=mask)
        tl.debug_barrier()
        kron_product(
            p_dz + t * (4 * state), 4 * H, p_keep_scale, p_first, p_second, p_keep_scale, p_between, p_dh_before, first,
            stop, 1.0, 0.0, S, P, Q, U, V, RIGHT, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        for e in range(0, elements, BLOCK):
            b, i_h, mask = state_block(e, first, stop, H, BLOCK)
            active = active_mask(p_lengths, b, t, mask, LENGTHS)  # dh of the other rows stays
            o_s = b * H + i_h
            dh = drop_units(load(p_dh_before + o_s, active), p_keep_scale, o_s, active, DROPPED)
            tl.store(p_dh + o_s, dh, mask=active)
        tl.debug_barrier()
