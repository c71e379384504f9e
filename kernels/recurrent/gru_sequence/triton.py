"""The Triton kernels of gru_sequence: a program takes some rows of the batch through all steps, as those of lstm_sequence.

Both forms of the reset are here (AFTER). If the reset stands before the product, n has a product of its own, which waits
for r.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.recurrent.gru_sequence.columns import split_columns
from dropfold.kernels.recurrent.gru_sequence.operation import empty_bwd_outputs, empty_fwd_outputs
from dropfold.kernels.recurrent.kron.triton import kron_product, plan_launch, rows_together
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


def gru_sequence_fwd(
    gx: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None, h0: Tensor, lengths: Tensor | None,
    keep_scale: Tensor | None, reverse: bool, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    hs, gates = empty_fwd_outputs(gx, a, c, b_n, h0, lengths, keep_scale, reverse, save)
    frames, batch, _ = gx.shape
    hs[frames if reverse else 0] = h0
    (a, c), (a_n, c_n) = split_columns(a, c, b_n is None)
    (s, p, u), (_, q, v) = a.shape, c.shape
    plan, plan_n = plan_launch(a, c), plan_launch(a_n, c_n)
    together = rows_together(batch, *plan.rows, *(plan_n.rows if b_n is None else ()))
    z = gx.new_empty((batch, u * v), dtype=torch.float32)
    product_n, reset_h = (z.new_empty((batch, p * q)) for _ in range(2))
    between = z.new_empty((batch, max(plan.between, plan_n.between)))
    gx = with_unit_stride(gx)
    _gru_sequence_fwd_kernel[(cdiv(batch, together),)](
        *(gx, gx.stride(0), gx.stride(1), plan.first, plan.second, plan_n.first, plan_n.second, b_n, keep_scale),
        *(lengths, hs, gates, z, product_n, reset_h, between, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=plan.right, U_N=a_n.shape[2], V_N=c_n.shape[2],
        RIGHT_N=plan_n.right, AFTER=int(b_n is not None), SAVE=save, **launch_options(a, lengths, keep_scale, reverse),
    )  # fmt: skip
    return hs, gates


def gru_sequence_bwd(
    dout: Tensor, dh_n: Tensor, gates: Tensor, hs: Tensor, a: Tensor, c: Tensor, b_n: Tensor | None,
    lengths: Tensor | None, keep_scale: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dgates, dh = empty_bwd_outputs(dout, dh_n, gates, hs, a, c, b_n, lengths, keep_scale, reverse)
    dh.copy_(dh_n)
    frames, batch, _ = dout.shape
    (a, c), (a_n, c_n) = ((a.mT, c.mT) for a, c in split_columns(a, c, b_n is None))
    (s, p, u), (_, q, v) = a.shape, c.shape
    plan, plan_n = plan_launch(a, c), plan_launch(a_n, c_n)
    together = rows_together(batch, *plan.rows, *(plan_n.rows if b_n is None else ()))
    dh_after, dreset_h, dh_before = (torch.empty_like(dh) for _ in range(3))
    dproduct = dh.new_empty((batch, p * q))
    between = dh.new_empty((batch, max(plan.between, plan_n.between)))
    dout = with_unit_stride(dout)
    _gru_sequence_bwd_kernel[(cdiv(batch, together),)](
        *(dout, dout.stride(0), dout.stride(1), gates, plan.first, plan.second, plan_n.first, plan_n.second),
        *(keep_scale, lengths, hs, dgates, dh, dh_after, dproduct, dreset_h, dh_before, between, frames, batch),
        TOGETHER=together, S=s, P=p, Q=q, U=u, V=v, RIGHT=plan.right, P_N=a_n.shape[1], Q_N=c_n.shape[1],
        RIGHT_N=plan_n.right, AFTER=int(b_n is not None), **launch_options(a, lengths, keep_scale, reverse),
    )  # fmt: skip
    return dgates, dh


@jit
def _gru_sequence_fwd_kernel(
    p_gx, gx_t, gx_b, p_first, p_second, p_first_n, p_second_n, p_bias, p_keep_scale, p_lengths, p_hs, p_gates, p_z,
    p_product_n, p_reset_h, p_between, frames, batch,
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
        before, after = p_hs + (t + REVERSE) * state, p_hs + (t + 1 - REVERSE) * state
        kron_product(
            before, H, p_keep_scale, p_first, p_second, p_keep_scale, p_between, p_z, first, stop, 1.0, 0.0,
            S, P, Q, U, V, RIGHT, False, DROPPED, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        if not AFTER:
            for e in range(0, elements, BLOCK):
                b, i_h, mask = state_block(e, first, stop, H, BLOCK)
                o_s = b * H + i_h
                r = sigmoid(
                    load(p_z + b * (U * V) + i_h, mask) + load(p_gx + t * gx_t + b * gx_b + i_h, mask)
                )
                h = drop_units(load(before + o_s, mask), p_keep_scale, o_s, mask, DROPPED)
                tl.store(p_reset_h + o_s, r * h, mask=mask)
            tl.debug_barrier()
            kron_product(
                p_reset_h, H, p_keep_scale, p_first_n, p_second_n, p_keep_scale, p_between, p_product_n, first, stop,
                1.0, 0.0, S, P, Q, U_N, V_N, RIGHT_N, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
            )  # fmt: skip
            tl.debug_barrier()
        for e in range(0, elements, BLOCK):
            b, i_h, mask = state_block(e, first, stop, H, BLOCK)
            o_s = b * H + i_h
            o_gx = t * gx_t + b * gx_b + i_h
            o_z = b * (U * V) + i_h
            r = sigmoid(load(p_z + o_z, mask) + load(p_gx + o_gx, mask))
            z = sigmoid(load(p_z + o_z + H, mask) + load(p_gx + o_gx + H, mask))
            x_n = load(p_gx + o_gx + 2 * H, mask)
            if AFTER:
                product_n = load(p_z + o_z + 2 * H, mask) + load(p_bias + i_h, mask)
                n = tanh(r * product_n + x_n)
            else:
                n = tanh(load(p_product_n + o_s, mask) + x_n)
            h_before = load(before + o_s, mask)
            h = n + z * (h_before - n)
            if LENGTHS:
                h = tl.where(active_mask(p_lengths, b, t, mask, LENGTHS), h, h_before)
            tl.store(after + o_s, h, mask=mask)
            if SAVE:
                o_gates = ((t * batch + b) * (3 + AFTER)) * H + i_h
                tl.store(p_gates + o_gates, r, mask=mask)
                tl.store(p_gates + o_gates + H, z, mask=mask)
                tl.store(p_gates + o_gates + 2 * H, n, mask=mask)
                if AFTER:
                    tl.store(p_gates + o_gates + 3 * H, product_n, mask=mask)
        tl.debug_barrier()


@jit
def _gru_sequence_bwd_kernel(
    p_dout, dout_t, dout_b, p_gates, p_first, p_second, p_first_n, p_second_n, p_keep_scale, p_lengths, p_hs, p_dgates,
    p_dh, p_dh_after, p_dproduct, p_dreset_h, p_dh_before, p_between, frames, batch,
    TOGETHER: tl.constexpr, S: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    RIGHT: tl.constexpr, P_N: tl.constexpr, Q_N: tl.constexpr, RIGHT_N: tl.constexpr, AFTER: tl.constexpr,
    REVERSE: tl.constexpr, DROPPED: tl.constexpr, LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """P, Q, U, V are those of U^T: its x is the gradient of the products [P Q], `dproduct`, its y is [U V] = [H].
    `dh_after` is dh with dout, `dreset_h` the gradient of r h' (form "before"), and `dh_before` holds dn until then."""
    H: tl.constexpr = U * V
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    stop = tl.minimum(first + TOGETHER, batch)
    elements = (stop - first).to(tl.int32) * H
    state = tl.full((), H, tl.int64) * batch  # a batch of 1 is a constant, which has no `.to`
    for step in range(frames):
        t = tl.full((), 0, tl.int64) + (step if REVERSE else frames - 1 - step)
        before = p_hs + (t + REVERSE) * state
        for e in range(0, elements, BLOCK):
            b, i_h, mask = state_block(e, first, stop, H, BLOCK)
            # Nothing of an inactive row is read, its gates may be NaN: all its gradients here are 0.
            active = active_mask(p_lengths, b, t, mask, LENGTHS)
            o_s = b * H + i_h
            o_g = ((t * batch + b) * (3 + AFTER)) * H + i_h
            o_p = b * (P * Q) + i_h
            r, z = load(p_gates + o_g, active), load(p_gates + o_g + H, active)
            n, h_before = load(p_gates + o_g + 2 * H, active), load(before + o_s, active)
            dh = load(p_dh + o_s, active) + load(p_dout + t * dout_t + b * dout_b + i_h, active)
            tl.store(p_dh_after + o_s, dh, mask=mask)
            dn = dh * (1 - z) * (1 - n * n)
            dz = dh * (h_before - n) * z * (1 - z)
            tl.store(p_dgates + o_g + H, dz, mask=mask)
            tl.store(p_dgates + o_g + 2 * H, dn, mask=mask)
            tl.store(p_dproduct + o_p + H, dz, mask=mask)
            if AFTER:
                dr = dn * load(p_gates + o_g + 3 * H, active) * r * (1 - r)
                tl.store(p_dgates + o_g, dr, mask=mask)
                tl.store(p_dgates + o_g + 3 * H, dn * r, mask=mask)
                tl.store(p_dproduct + o_p, dr, mask=mask)
                tl.store(p_dproduct + o_p + 2 * H, dn * r, mask=mask)
            else:
                tl.store(p_dh_before + o_s, dn, mask=mask)
        tl.debug_barrier()
        if not AFTER:
            kron_product(
                p_dh_before, H, p_keep_scale, p_first_n, p_second_n, p_keep_scale, p_between, p_dreset_h, first, stop,
                1.0, 0.0, S, P_N, Q_N, U, V, RIGHT_N, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
            )  # fmt: skip
            tl.debug_barrier()
            for e in range(0, elements, BLOCK):
                b, i_h, mask = state_block(e, first, stop, H, BLOCK)
                active = active_mask(p_lengths, b, t, mask, LENGTHS)
                o_s = b * H + i_h
                o_g = ((t * batch + b) * 3) * H + i_h
                r = load(p_gates + o_g, active)
                h = drop_units(load(before + o_s, mask), p_keep_scale, o_s, mask, DROPPED)
                dr = load(p_dreset_h + o_s, mask) * h * r * (1 - r)
                tl.store(p_dgates + o_g, dr, mask=mask)
                tl.store(p_dproduct + b * (P * Q) + i_h, dr, mask=mask)
            tl.debug_barrier()
        kron_product(
            p_dproduct, P * Q, p_keep_scale, p_first, p_second, p_keep_scale, p_between, p_dh_before, first, stop, 1.0, 0.0,
            S, P, Q, U, V, RIGHT, False, False, False, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        for e in range(0, elements, BLOCK):
            b, i_h, mask = state_block(e, first, stop, H, BLOCK)
            active = active_mask(p_lengths, b, t, mask, LENGTHS)  # dh of the other rows stays
            o_s = b * H + i_h
            o_g = ((t * batch + b) * (3 + AFTER)) * H + i_h
            dh = load(p_dh_before + o_s, active)
            if not AFTER:
                dh += load(p_gates + o_g, active) * load(p_dreset_h + o_s, active)
            dh = drop_units(dh, p_keep_scale, o_s, active, DROPPED)
            dh += load(p_gates + o_g + H, active) * load(p_dh_after + o_s, active)
            tl.store(p_dh + o_s, dh, mask=active)
        tl.debug_barrier()
