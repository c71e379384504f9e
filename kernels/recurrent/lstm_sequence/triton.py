"""The Triton kernels of lstm_sequence, which has the formulas: a program takes some rows of the batch through all steps.

Its threads hand on states, gates and products through memory that no other program touches; a barrier stands between.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.kron.products import flat_factors, rows_together, stages
from dropfold.kernels.recurrent.kron.triton import kron_product
from dropfold.kernels.recurrent.lstm_sequence.outputs import _fake_bwd, _fake_fwd
from dropfold.kernels.recurrent.sequence.frames import launch_options, with_unit_stride
from dropfold.kernels.recurrent.sequence.triton import load_sum, sigmoid, tanh


def lstm_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, h0: Tensor, c0: Tensor, lengths: Tensor | None, factor: Tensor | None,
    reverse: bool, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    hs, cs, gates = _fake_fwd(gx, a, c, h0, c0, lengths, factor, reverse, save)
    frames, batch, columns = gx.shape
    (s, p, u), (_, q, v) = a.shape, c.shape
    start = frames if reverse else 0
    hs[start], cs[start] = h0, c0
    right, rows, between = stages(a, c)
    together = rows_together(batch, *rows)
    z = gx.new_empty((batch, columns), dtype=torch.float32)
    scratch = z.new_empty((batch, between))
    gx = with_unit_stride(gx)
    lstm_sequence_fwd_kernel[(cdiv(batch, together),)](
        *(gx, gx.stride(0), gx.stride(1), *flat_factors(a, c, right), factor, lengths),
        *(hs, cs, gates, z, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, SAVE=save,
        **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return hs, cs, gates


def lstm_sequence_bwd(
    dout: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, hs: Tensor, cs: Tensor, a: Tensor, c: Tensor,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dz, dh, dc = _fake_bwd(dout, dh_n, dc_n, gates, hs, cs, a, c, lengths, factor, reverse)
    dh.copy_(dh_n)
    dc.copy_(dc_n)
    frames, batch, _ = dout.shape
    a, c = a.mT, c.mT
    (s, p, u), (_, q, v) = a.shape, c.shape
    right, rows, between = stages(a, c)
    together = rows_together(batch, *rows)
    back, scratch = torch.empty_like(dh), dh.new_empty((batch, between))
    dout = with_unit_stride(dout)
    lstm_sequence_bwd_kernel[(cdiv(batch, together),)](
        *(dout, dout.stride(0), dout.stride(1), gates, *flat_factors(a, c, right), factor, lengths),
        *(cs, dz, dh, dc, back, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return dz, dh, dc


@jit
def lstm_sequence_fwd_kernel(
    p_gx, gx_t, gx_b, p_first, p_second, p_factor, p_lengths, p_hs, p_cs, p_gates, p_z, p_scratch, frames, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, REVERSE: tl.constexpr, SAVE: tl.constexpr, DROPPED: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    H: tl.constexpr = P * Q
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    stop = tl.minimum(first + TOGETHER, batch)
    state = tl.full((), H, tl.int64) * batch  # a batch of 1 is a constant, which has no `.to`
    for step in range(frames):
        t = tl.full((), 0, tl.int64) + (frames - 1 - step if REVERSE else step)
        now = p_hs + (t + REVERSE) * state
        then = (t + 1 - REVERSE) * state
        kron_product(
            now, H, p_factor, p_first, p_second, p_factor, p_scratch, p_z, first, stop, 1.0, 0.0,
            S, P, Q, U, V, RIGHT, False, DROPPED, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        for e in range(0, (stop - first).to(tl.int32) * H, BLOCK):
            o = e + tl.arange(0, BLOCK)
            b = first + o // H
            i_h = o % H
            there = b < stop
            o_z = b * (4 * H) + i_h
            o_gx = t * gx_t + b * gx_b + i_h
            o_s = b * H + i_h
            i = sigmoid(load_sum(p_z + o_z, p_gx + o_gx, there))
            f = sigmoid(load_sum(p_z + o_z + H, p_gx + o_gx + H, there))
            g = tanh(load_sum(p_z + o_z + 2 * H, p_gx + o_gx + 2 * H, there))
            o_gate = sigmoid(load_sum(p_z + o_z + 3 * H, p_gx + o_gx + 3 * H, there))
            old = tl.load(p_cs + (t + REVERSE) * state + o_s, mask=there, other=0.0)
            kept = f * old
            new = kept + i * g
            h = o_gate * tanh(new)
            if LENGTHS:
                running = t < tl.load(p_lengths + b, mask=there, other=0)
                new = tl.where(running, new, old)
                h = tl.where(running, h, tl.load(now + o_s, mask=there, other=0.0).to(tl.float32))
            tl.store(p_cs + then + o_s, new, mask=there)
            tl.store(p_hs + then + o_s, h, mask=there)
            if SAVE:
                o_gates = t * (4 * state) + o_z
                tl.store(p_gates + o_gates, i, mask=there)
                tl.store(p_gates + o_gates + H, f, mask=there)
                tl.store(p_gates + o_gates + 2 * H, g, mask=there)
                tl.store(p_gates + o_gates + 3 * H, o_gate, mask=there)
        tl.debug_barrier()


@jit
def lstm_sequence_bwd_kernel(
    p_dout, dout_t, dout_b, p_gates, p_first, p_second, p_factor, p_lengths, p_cs, p_dz, p_dh, p_dc, p_back, p_scratch,
    frames, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, REVERSE: tl.constexpr, DROPPED: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Here P, Q, U, V are those of U^T: x is dz [U V = 4 H], y is dh [H]. dh and dc hold the running gradients."""
    H: tl.constexpr = U * V
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    stop = tl.minimum(first + TOGETHER, batch)
    state = tl.full((), H, tl.int64) * batch  # a batch of 1 is a constant, which has no `.to`
    for step in range(frames):
        t = tl.full((), 0, tl.int64) + (step if REVERSE else frames - 1 - step)
        for e in range(0, (stop - first).to(tl.int32) * H, BLOCK):
            o = e + tl.arange(0, BLOCK)
            b = first + o // H
            there = b < stop
            o_s = b * H + o % H
            o_z = t * (4 * state) + b * (4 * H) + o % H
            i = tl.load(p_gates + o_z, mask=there, other=0.0).to(tl.float32)
            f = tl.load(p_gates + o_z + H, mask=there, other=0.0).to(tl.float32)
            g = tl.load(p_gates + o_z + 2 * H, mask=there, other=0.0).to(tl.float32)
            o_gate = tl.load(p_gates + o_z + 3 * H, mask=there, other=0.0).to(tl.float32)
            old = tl.load(p_cs + (t + REVERSE) * state + o_s, mask=there, other=0.0)
            tanh_c = tanh(tl.load(p_cs + (t + 1 - REVERSE) * state + o_s, mask=there, other=0.0))
            running = there
            if LENGTHS:
                running = running & (t < tl.load(p_lengths + b, mask=there, other=0))
            dout = tl.load(p_dout + t * dout_t + b * dout_b + o % H, mask=running, other=0.0).to(tl.float32)
            # Until the product below, dh of a row that stands still is carried in `back`.
            dh = tl.load(p_dh + o_s, mask=there, other=0.0) + dout
            dc = tl.load(p_dc + o_s, mask=there, other=0.0)
            whole = dc + dh * o_gate * (1 - tanh_c * tanh_c)
            tl.store(p_dz + o_z, tl.where(running, whole * g * i * (1 - i), 0.0), mask=there)
            tl.store(p_dz + o_z + H, tl.where(running, whole * old * f * (1 - f), 0.0), mask=there)
            tl.store(p_dz + o_z + 2 * H, tl.where(running, whole * i * (1 - g * g), 0.0), mask=there)
            tl.store(
                p_dz + o_z + 3 * H, tl.where(running, dh * tanh_c * o_gate * (1 - o_gate), 0.0), mask=there
            )
            tl.store(p_dc + o_s, tl.where(running, whole * f, dc), mask=there)
        tl.debug_barrier()
        kron_product(
            p_dz + t * (4 * state), 4 * H, p_factor, p_first, p_second, p_factor, p_scratch, p_back, first, stop, 1.0, 0.0,
            S, P, Q, U, V, RIGHT, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        for e in range(0, (stop - first).to(tl.int32) * H, BLOCK):
            o = e + tl.arange(0, BLOCK)
            b = first + o // H
            running = b < stop
            o_s = b * H + o % H
            if LENGTHS:
                running = running & (t < tl.load(p_lengths + b, mask=running, other=0))
            dh = tl.load(p_back + o_s, mask=running, other=0.0)
            if DROPPED:
                dh *= tl.load(p_factor + o_s, mask=running, other=0.0)
            tl.store(p_dh + o_s, dh, mask=running)
        tl.debug_barrier()
