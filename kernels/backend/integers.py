"""Products of small integers inside compiled loops: rows rounded to 8 bits times a packed matrix of integers, in int32.

    z = x_row / s,  s = max |x_row| / 127,      out[i, j] = s_i sum_k round(z_ik) w_jk

Each row has a scale of its own, so that no row depends on its neighbours; a row with NaN or infinity is NaN, and one of
zeros, or of nothing above `SMALLEST`, is 0. The sum is exact: |w| <= 254 (a difference of two bytes) and at most 65,536
products stay below 2^31.

Numbers are held in 16 bits, two along k side by side: one instruction of the processor (pmaddwd on x86) multiplies both
and adds them in 32 bits, twice as many products as one multiply-add of float32 has. There is no 8-bit instruction before
AVX-VNNI that does not saturate.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.vector import (
    BYTES_PER_REGISTER,
    ROWS_PER_TILE,
    VECTORS_PER_TILE,
    _pointer,
    _repeat,
    check_compiling,
)

LARGEST = 127  # of a rounded number
SMALLEST = 1e-35  # 127 divided by it is finite
LANES = BYTES_PER_REGISTER // 4
SHIFT, BITS_OF_SHIFT = 12_582_912, 0x4B400000  # 1.5 * 2^23 in float32, whose last bit is one


@njit
def round_rows(x, first, rows):
    """Rows first .. first + rows - 1 of x [M, k], float32: (integers [rows, k or k + 1], their scales [rows])."""
    k = x.shape[1]
    out, scales = np.zeros((rows, k + k % 2), np.int16), np.empty(rows, np.float32)
    shifted, top = np.empty(k, np.float32), np.empty(1, np.float32)
    bits, bits_of_shifted, bits_of_top = x.view(np.int32), shifted.view(np.int32), top.view(np.int32)
    for m in range(rows):
        row, to = x[first + m], out[m]
        bits_of_top[0] = _largest(bits[first + m])
        scales[m] = top[0] / np.float32(LARGEST)
        if not np.isfinite(top[0]):
            scales[m] = np.nan
        elif top[0] < np.float32(SMALLEST):
            scales[m] = 0
        else:
            factor = np.float32(LARGEST) / top[0]
            for i in range(
                k
            ):  # the sum rounds to an integer, to even at a half, which then stands in the last bits
                shifted[i] = row[i] * factor + np.float32(SHIFT)
            for i in range(k):
                to[i] = np.int16(bits_of_shifted[i] - np.int32(BITS_OF_SHIFT))
    return out, scales


@njit
def _largest(bits):
    """The largest of numbers without their sign: their bits have the same order, and NaN is above infinity."""
    largest = np.int32(0)
    for i in range(bits.shape[0]):
        number = np.int32(bits[i] & np.int32(0x7FFFFFFF))
        largest = number if number > largest else largest
    return largest


@intrinsic(prefer_literal=True)
def _tile(typing, x, x_at, x_row, scale, scale_at, w, w_at, w_pair, out, out_at, out_row, pairs, rows):
    """A tile of `multiply` held in registers: 1 to ROWS_PER_TILE rows of VECTORS_PER_TILE vectors; pairs is 1 at least."""

    def code(context, builder, signature, values):
        done = builder.append_basic_block("done")
        choice = builder.switch(values[12], done)
        for n in range(1, ROWS_PER_TILE + 1):
            block = builder.append_basic_block(f"rows{n}")
            choice.add_case(ir.Constant(ir.IntType(64), n), block)
            builder.position_at_end(block)
            _write_tile(builder, values[:12], n)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    i = types.int64
    return types.void(x, i, i, scale, i, w, i, i, out, i, i, i, i), code


def _write_tile(builder: Any, values: Any, rows: int) -> None:
    p_x, x_at, x_row, p_scale, scale_at, p_w, w_at, w_pair, p_out, out_at, out_row, pairs = values
    index, half, number, real = ir.IntType(64), ir.IntType(16), ir.IntType(32), ir.FloatType()
    both, sums_kind, out_kind = (
        ir.VectorType(half, 2 * LANES),
        ir.VectorType(number, LANES),
        ir.VectorType(real, LANES),
    )
    zero, one = ir.Constant(index, 0), ir.Constant(index, 1)
    columns = [ir.Constant(index, v * LANES) for v in range(VECTORS_PER_TILE)]

    def place(at, stride, row):
        return builder.add(at, builder.mul(stride, ir.Constant(index, row)))

    entry = builder.block
    loop, done = (builder.append_basic_block(name) for name in ("loop", "done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(index)
    sums = [builder.phi(sums_kind) for _ in range(rows * VECTORS_PER_TILE)]
    k.add_incoming(zero, entry)
    for total in sums:
        total.add_incoming(ir.Constant(sums_kind, None), entry)
    at = builder.add(w_at, builder.mul(w_pair, k))
    parts = [
        builder.load(
            _pointer(builder, p_w, builder.add(at, builder.add(column, column)), half, both), align=2
        )
        for column in columns
    ]
    after: list[Any] = []
    two_k = builder.add(k, k)
    for row in range(rows):
        pointer = _pointer(builder, p_x, builder.add(place(x_at, x_row, row), two_k), half, number)
        pair = builder.bitcast(_repeat(builder, builder.load(pointer, align=2), LANES), both)
        for part in parts:
            after.append(builder.add(sums[len(after)], _multiply_pairs(builder, pair, part)))
    following = builder.add(k, one)
    for phi, value in zip([k, *sums], [following, *after], strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, pairs), loop, done)
    builder.position_at_end(done)
    for row in range(rows):
        pointer = _pointer(builder, p_scale, builder.add(scale_at, ir.Constant(index, row)), real, real)
        factor = _repeat(builder, builder.load(pointer, align=4), LANES)
        for v, column in enumerate(columns):
            total = builder.sitofp(after[row * VECTORS_PER_TILE + v], out_kind)
            pointer = _pointer(
                builder, p_out, builder.add(place(out_at, out_row, row), column), real, out_kind
            )
            builder.store(builder.fmul(total, factor), pointer, align=4)


def _multiply_pairs(builder: Any, x: Any, y: Any) -> Any:
    """x_0 y_0 + x_1 y_1 of each two numbers of int16 beside each other, in int32; LLVM knows it as one instruction."""
    wide = ir.VectorType(ir.IntType(32), 2 * LANES)
    product = builder.mul(builder.sext(x, wide), builder.sext(y, wide))
    undefined = ir.Constant(wide, ir.Undefined)
    places = ir.VectorType(ir.IntType(32), LANES)
    even, odd = (
        builder.shuffle_vector(product, undefined, ir.Constant(places, [2 * i + first for i in range(LANES)]))
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _multiply(x, x_at, x_row, scale, scale_at, w, w_at, w_pair, out, out_at, out_row, rows, pairs):
    while rows:
        tiles = (rows + ROWS_PER_TILE - 1) // ROWS_PER_TILE
        n = (rows + tiles - 1) // tiles
        _tile(x, x_at, x_row, scale, scale_at, w, w_at, w_pair, out, out_at, out_row, pairs, n)
        rows, x_at, scale_at, out_at = rows - n, x_at + n * x_row, scale_at + n, out_at + n * out_row


@functools.cache
def _compile_multiply() -> Any:
    half, real, i = types.CPointer(types.int16), types.CPointer(types.float32), types.int64
    kinds = half, i, i, real, i, half, i, i, real, i, i, i, i
    return numba.cfunc(types.void(*kinds), cache=True)(_multiply)


def multiply_routine() -> int:
    """The address of `multiply`'s code.

    Raises:
        RuntimeError: numba is told to compile nothing.
    """
    check_compiling()
    return _compile_multiply().address


@intrinsic
def multiply(
    typing, routine, x, x_at, x_row, scale, scale_at, w, w_at, w_pair, out, out_at, out_row, rows, pairs
):
    """out[out_at + i out_row + j] = scale[scale_at + i] sum_k x[i, k] w[k, j] over the columns j of one panel, whose pairs
    of rows are `w_pair` apart."""
    kinds = (x, x_at, x_row, scale, scale_at, w, w_at, w_pair, out, out_at, out_row, rows, pairs)

    def code(context, builder, signature, values):
        arguments = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(kinds, values[1:], strict=True)
        ]
        function = ir.FunctionType(ir.VoidType(), [value.type for value in arguments])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), arguments)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, x, i, i, scale, i, w, i, i, out, i, i, i, i), code
