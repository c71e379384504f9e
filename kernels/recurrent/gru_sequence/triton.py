"""The Triton kernels of gru_sequence, which has the formulas; their programs go as those of `_lstm_kernels`.

Both forms of the reset are here (`AFTER`): where it stands before the product, n has a product of its own and waits for r.
Gates are saved as r, z, n, and, where it stands after, the product that r multiplies.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.gru_sequence.outputs import _fake_bwd, _fake_fwd, gates_of
from dropfold.kernels.recurrent.kron.products import flat_factors, rows_together, stages
from dropfold.kernels.recurrent.kron.triton import kron_product
from dropfold.kernels.recurrent.sequence.frames import launch_options, with_unit_stride
from dropfold.kernels.recurrent.sequence.triton import load_sum, sigmoid, tanh


def gru_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    factor: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    hs, gates = _fake_fwd(gx, a, c, b_n, h0, lengths, factor, reverse, save)
    frames, batch, _ = gx.shape
    hs[frames if reverse else 0] = h0
    outer, new = gates_of(a, c, 0, 2) if b_n is None else (a, c), gates_of(a, c, 2, 3)
    (right, rows, between), (right_n, rows_n, between_n) = stages(*outer), stages(*new)
    together = rows_together(batch, *rows, *(rows_n if b_n is None else ()))
    (s, p, u), (_, q, v) = (t.shape for t in outer)
    z = gx.new_empty((batch, u * v), dtype=torch.float32)
    n, reset = (z.new_empty((batch, p * q)) for _ in range(2))
    scratch = z.new_empty((batch, max(between, between_n)))
    gx = with_unit_stride(gx)
    gru_sequence_fwd_kernel[(cdiv(batch, together),)](
        *(gx, gx.stride(0), gx.stride(1), *flat_factors(*outer, right), *flat_factors(*new, right_n), b_n, factor),
        *(lengths, hs, gates, z, n, reset, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, U_N=new[0].shape[2], V_N=new[1].shape[2],
        RIGHT_N=right_n, AFTER=int(b_n is not None), SAVE=save, **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return hs, gates


def gru_sequence_bwd(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, factor: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dz, dh = _fake_bwd(dout, dh_n, gates, hs, a, c, b_n, lengths, factor, reverse)
    dh.copy_(dh_n)
    frames, batch, _ = dout.shape
    outer, new = gates_of(a, c, 0, 2) if b_n is None else (a, c), gates_of(a, c, 2, 3)
    outer, new = (outer[0].mT, outer[1].mT), (new[0].mT, new[1].mT)
    (right, rows, between), (right_n, rows_n, between_n) = stages(*outer), stages(*new)
    together = rows_together(batch, *rows, *(rows_n if b_n is None else ()))
    (s, p, u), (_, q, v) = (t.shape for t in outer)
    grad, reset, back = (torch.empty_like(dh) for _ in range(3))
    product = dh.new_empty((batch, p * q))
    scratch = dh.new_empty((batch, max(between, between_n)))
    dout = with_unit_stride(dout)
    gru_sequence_bwd_kernel[(cdiv(batch, together),)](
        *(dout, dout.stride(0), dout.stride(1), gates, *flat_factors(*outer, right), *flat_factors(*new, right_n)),
        *(factor, lengths, hs, dz, dh, grad, product, reset, back, scratch, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=right, P_N=new[0].shape[1], Q_N=new[1].shape[1],
        RIGHT_N=right_n, AFTER=int(b_n is not None), **launch_options(a, lengths, factor, reverse),
    )  # fmt: skip
    return dz, dh


@jit
def gru_sequence_fwd_kernel(
    p_gx, gx_t, gx_b, p_first, p_second, p_first_n, p_second_n, p_bias, p_factor, p_lengths, p_hs, p_gates, p_z, p_n,
    p_reset, p_scratch, frames, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, U_N: tl.constexpr, V_N: tl.constexpr, RIGHT_N: tl.constexpr, AFTER: tl.constexpr,
    REVERSE: tl.constexpr, SAVE: tl.constexpr, DROPPED: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """U V is 3 H for "after" and 2 H for "before", whose n goes through a product of its own, [U_N V_N] = H."""
    H: tl.constexpr = P * Q
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    stop = tl.minimum(first + TOGETHER, batch)
    elements = (stop - first).to(tl.int32) * H
    state = tl.full((), H, tl.int64) * batch  # a batch of 1 is a constant, which has no `.to`
    for step in range(frames):
        t = tl.full((), 0, tl.int64) + (frames - 1 - step if REVERSE else step)
        now = p_hs + (t + REVERSE) * state
        then = p_hs + (t + 1 - REVERSE) * state
        kron_product(
            now, H, p_factor, p_first, p_second, p_factor, p_scratch, p_z, first, stop, 1.0, 0.0,
            S, P, Q, U, V, RIGHT, False, DROPPED, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        if not AFTER:
            for e in range(0, elements, BLOCK):
                o = e + tl.arange(0, BLOCK)
                b = first + o // H
                there = b < stop
                o_s = b * H + o % H
                o_gx = t * gx_t + b * gx_b + o % H
                r = sigmoid(load_sum(p_z + b * (U * V) + o % H, p_gx + o_gx, there))
                h = tl.load(now + o_s, mask=there, other=0.0).to(tl.float32)
                if DROPPED:
                    h *= tl.load(p_factor + o_s, mask=there, other=0.0)
                tl.store(p_reset + o_s, r * h, mask=there)
            tl.debug_barrier()
            kron_product(
                p_reset, H, p_factor, p_first_n, p_second_n, p_factor, p_scratch, p_n, first, stop, 1.0, 0.0,
                S, P, Q, U_N, V_N, RIGHT_N, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
            )  # fmt: skip
            tl.debug_barrier()
        for e in range(0, elements, BLOCK):
            o = e + tl.arange(0, BLOCK)
            b = first + o // H
            there = b < stop
            o_s = b * H + o % H
            o_gx = t * gx_t + b * gx_b + o % H
            o_z = b * (U * V) + o % H
            r = sigmoid(load_sum(p_z + o_z, p_gx + o_gx, there))
            z = sigmoid(load_sum(p_z + o_z + H, p_gx + o_gx + H, there))
            if AFTER:
                inner = load_sum(p_z + o_z + 2 * H, p_bias + o % H, there)
                n = tanh(r * inner + tl.load(p_gx + o_gx + 2 * H, mask=there, other=0.0).to(tl.float32))
            else:
                inner = r
                n = tanh(load_sum(p_n + o_s, p_gx + o_gx + 2 * H, there))
            old = tl.load(now + o_s, mask=there, other=0.0).to(tl.float32)
            h = n + z * (old - n)
            if LENGTHS:
                h = tl.where(t < tl.load(p_lengths + b, mask=there, other=0), h, old)
            tl.store(then + o_s, h, mask=there)
            if SAVE:
                o_gates = ((t * batch + b) * (3 + AFTER)) * H + o % H
                tl.store(p_gates + o_gates, r, mask=there)
                tl.store(p_gates + o_gates + H, z, mask=there)
                tl.store(p_gates + o_gates + 2 * H, n, mask=there)
                if AFTER:
                    tl.store(p_gates + o_gates + 3 * H, inner, mask=there)
        tl.debug_barrier()


@jit
def gru_sequence_bwd_kernel(
    p_dout, dout_t, dout_b, p_gates, p_first, p_second, p_first_n, p_second_n, p_factor, p_lengths, p_hs, p_dz, p_dh,
    p_grad, p_product, p_reset, p_back, p_scratch, frames, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, P_N: tl.constexpr, Q_N: tl.constexpr, RIGHT_N: tl.constexpr, AFTER: tl.constexpr,
    REVERSE: tl.constexpr, DROPPED: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """P, Q, U, V are those of U^T: its x is the gradient of the products [P Q], its y is [U V] = [H]. `product` [B, P Q] is
    that gradient, `grad` dh with dout, `reset` (form "before") the gradient of r * h'."""
    H: tl.constexpr = U * V
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    stop = tl.minimum(first + TOGETHER, batch)
    elements = (stop - first).to(tl.int32) * H
    state = tl.full((), H, tl.int64) * batch  # a batch of 1 is a constant, which has no `.to`
    for step in range(frames):
        t = tl.full((), 0, tl.int64) + (step if REVERSE else frames - 1 - step)
        now = p_hs + (t + REVERSE) * state
        for e in range(0, elements, BLOCK):
            o = e + tl.arange(0, BLOCK)
            b = first + o // H
            there = b < stop
            o_s = b * H + o % H
            o_g = ((t * batch + b) * (3 + AFTER)) * H + o % H
            o_p = b * (P * Q) + o % H
            # Of a row that stands still nothing is read, its gates may be NaN: all its gradients here are 0.
            running = there
            if LENGTHS:
                running = running & (t < tl.load(p_lengths + b, mask=there, other=0))
            r = tl.load(p_gates + o_g, mask=running, other=0.0).to(tl.float32)
            z = tl.load(p_gates + o_g + H, mask=running, other=0.0).to(tl.float32)
            n = tl.load(p_gates + o_g + 2 * H, mask=running, other=0.0).to(tl.float32)
            old = tl.load(now + o_s, mask=running, other=0.0).to(tl.float32)
            grad = tl.load(p_dh + o_s, mask=running, other=0.0)
            grad += tl.load(p_dout + t * dout_t + b * dout_b + o % H, mask=running, other=0.0).to(tl.float32)
            tl.store(p_grad + o_s, grad, mask=there)
            dn = grad * (1 - z) * (1 - n * n)
            dz = grad * (old - n) * z * (1 - z)
            tl.store(p_dz + o_g + H, dz, mask=there)
            tl.store(p_dz + o_g + 2 * H, dn, mask=there)
            tl.store(p_product + o_p + H, dz, mask=there)
            if AFTER:
                dr = dn * tl.load(p_gates + o_g + 3 * H, mask=running, other=0.0).to(tl.float32) * r * (1 - r)
                tl.store(p_dz + o_g, dr, mask=there)
                tl.store(p_dz + o_g + 3 * H, dn * r, mask=there)
                tl.store(p_product + o_p, dr, mask=there)
                tl.store(p_product + o_p + 2 * H, dn * r, mask=there)
            else:
                tl.store(p_back + o_s, dn, mask=there)
        tl.debug_barrier()
        if not AFTER:
            kron_product(
                p_back, H, p_factor, p_first_n, p_second_n, p_factor, p_scratch, p_reset, first, stop, 1.0, 0.0,
                S, P_N, Q_N, U, V, RIGHT_N, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
            )  # fmt: skip
            tl.debug_barrier()
            for e in range(0, elements, BLOCK):
                o = e + tl.arange(0, BLOCK)
                b = first + o // H
                there = b < stop
                o_s = b * H + o % H
                o_g = ((t * batch + b) * 3) * H + o % H
                running = there
                if LENGTHS:
                    running = running & (t < tl.load(p_lengths + b, mask=there, other=0))
                r = tl.load(p_gates + o_g, mask=running, other=0.0).to(tl.float32)
                kept = tl.load(now + o_s, mask=there, other=0.0).to(tl.float32)
                if DROPPED:
                    kept *= tl.load(p_factor + o_s, mask=there, other=0.0)
                reset = tl.load(p_reset + o_s, mask=there, other=0.0)
                dr = reset * kept * r * (1 - r)
                tl.store(p_dz + o_g, dr, mask=there)
                tl.store(p_product + b * (P * Q) + o % H, dr, mask=there)
            tl.debug_barrier()
        kron_product(
            p_product, P * Q, p_factor, p_first, p_second, p_factor, p_scratch, p_back, first, stop, 1.0, 0.0,
            S, P, Q, U, V, RIGHT, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        for e in range(0, elements, BLOCK):
            o = e + tl.arange(0, BLOCK)
            b = first + o // H
            running = b < stop
            o_s = b * H + o % H
            o_g = ((t * batch + b) * (3 + AFTER)) * H + o % H
            if LENGTHS:
                running = running & (t < tl.load(p_lengths + b, mask=running, other=0))
            z = tl.load(p_gates + o_g + H, mask=running, other=0.0).to(tl.float32)
            dh = tl.load(p_back + o_s, mask=running, other=0.0)
            if not AFTER:
                r = tl.load(p_gates + o_g, mask=running, other=0.0).to(tl.float32)
                dh += r * tl.load(p_reset + o_s, mask=running, other=0.0)
            if DROPPED:
                dh *= tl.load(p_factor + o_s, mask=running, other=0.0)
            dh += z * tl.load(p_grad + o_s, mask=running, other=0.0)
            tl.store(p_dh + o_s, dh, mask=running)
        tl.debug_barrier()
