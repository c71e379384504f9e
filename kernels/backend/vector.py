"""Vector instructions inside compiled loops: formulas over whole registers, and products of small matrices.

LLVM vectorises a plain loop only where it can prove that few arrays do not overlap, which fails for the eight arrays of an
LSTM's cell. So these loops are written as vector instructions of the processor at hand (AVX-512, AVX2, NEON), which LLVM
schedules.

    @elementwise
    def scaled_sigmoid(x, y): return sigmoid(x) * y,

    scaled_sigmoid(n, (x, x_at, y, y_at, out, out_at))          out[out_at + i] = sigmoid(x[x_at + i]) y[y_at + i], i < n

    multiply(x, at, row, inner, w, at, inner, out, at, row, rows, inner, columns, add)            out (+)= x w

Arrays are one-dimensional and contiguous; `at` is the index of the first number. Nothing is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from dropfold.kernels.backend.numba import njit


def _bytes_per_register() -> int:
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


BYTES_PER_REGISTER = _bytes_per_register()
ROWS_PER_TILE = {64: 12, 32: 6, 16: 6}[BYTES_PER_REGISTER]
VECTORS_PER_TILE = {64: 2, 32: 2, 16: 4}[BYTES_PER_REGISTER]
COMPILED = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
# Of the polynomial of exp on |r| <= ln 2 / 2, whose first omitted term is below half a unit in the last place.
DEGREE = {32: 7, 64: 13}
MANTISSA_BITS = {32: 23, 64: 52}
EXPONENT_BIAS = {32: 127, 64: 1023}
LARGEST_EXPONENT = {32: 87.0, 64: 708.0}  # of exp, whose result and its reciprocal are normal numbers


class Vector:
    """Numbers of one register in the code that is being written; Python numbers join in."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def type(self) -> Any:
        return self.value.type

    @property
    def bits(self) -> int:
        scalar = getattr(self.type, "element", self.type)
        return 32 if isinstance(scalar, ir.FloatType) else 64

    def _constant(self, number: float, kind: Any = None) -> Any:
        kind = kind or self.type
        element = getattr(kind, "element", None)
        return ir.Constant(kind, number if element is None else [ir.Constant(element, number)] * kind.count)

    def _other(self, other: Vector | float) -> Any:
        return other.value if isinstance(other, Vector) else self._constant(float(other))

    def __add__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, self._other(other)))

    def __sub__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, self._other(other)))

    def __rsub__(self, other: float) -> Vector:
        return Vector(self.builder, self.builder.fsub(self._other(other), self.value))

    def __mul__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, self._other(other)))

    def __truediv__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fdiv(self.value, self._other(other)))

    def __rtruediv__(self, other: float) -> Vector:
        return Vector(self.builder, self.builder.fdiv(self._other(other), self.value))

    def __neg__(self) -> Vector:
        return Vector(self.builder, self.builder.fneg(self.value))

    __radd__, __rmul__ = __add__, __mul__

    def multiply_add(self, factor: Vector | float, term: Vector | float) -> Vector:
        """self factor + term, rounded once where the processor can."""
        return Vector(
            self.builder, _multiply_add(self.builder, self.value, self._other(factor), self._other(term))
        )

    def clamp(self, limit: float) -> Vector:
        """At least -limit and at most limit; NaN stays NaN."""
        for bound, test in ((limit, ">"), (-limit, "<")):
            outside = self.builder.fcmp_ordered(test, self.value, self._constant(bound))
            self = Vector(self.builder, self.builder.select(outside, self._constant(bound), self.value))
        return self

    def split_power(self) -> tuple[Vector, Vector]:
        """2^n and e^r - 1 of x = n ln 2 + r, |r| <= ln 2 / 2."""
        builder, bits = self.builder, self.bits
        # Adding 1.5 * 2^mantissa rounds to an integer n, which then stands in the last bits.
        magic = 1.5 * 2.0 ** MANTISSA_BITS[bits]
        shifted = self.multiply_add(1 / math.log(2), magic)
        n = shifted - magic
        high = float(np.float32(0.693359375)) if bits == 32 else float.fromhex("0x1.62e42fee00000p-1")
        r = n.multiply_add(-(math.log(2) - high), n.multiply_add(-high, self))
        series = Vector(builder, self._constant(1 / math.factorial(DEGREE[bits])))
        for k in range(DEGREE[bits] - 1, 0, -1):
            series = series.multiply_add(r, 1 / math.factorial(k))
        integer: Any = ir.IntType(bits)
        if isinstance(self.type, ir.VectorType):
            integer = ir.VectorType(integer, self.type.count)
        exponent = builder.shl(
            builder.bitcast(shifted.value, integer), self._constant(MANTISSA_BITS[bits], integer)
        )
        one = self._constant(EXPONENT_BIAS[bits] << MANTISSA_BITS[bits], integer)
        return Vector(builder, builder.bitcast(builder.add(exponent, one), self.type)), series * r


def _multiply_add(builder: Any, x: Any, y: Any, z: Any) -> Any:
    kind = x.type
    name = {ir.FloatType: "f32", ir.DoubleType: "f64"}[type(getattr(kind, "element", kind))]
    name = f"v{kind.count}{name}" if isinstance(kind, ir.VectorType) else name
    signature = ir.FunctionType(kind, [kind] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fmuladd.{name}")
    return builder.call(function, (x, y, z))


def sigmoid(x: Vector) -> Vector:
    """1 / (1 + e^-x)."""
    power, rest = (-x).clamp(LARGEST_EXPONENT[x.bits]).split_power()
    return 1 / (rest.multiply_add(power, power) + 1)


def tanh(x: Vector) -> Vector:
    """e / (e + 2) with e = e^2x - 1, which is exact to the last places near 0 too."""
    power, rest = (x * 2).clamp(LARGEST_EXPONENT[x.bits] / 2).split_power()
    e = rest.multiply_add(power, power - 1)
    return e / (e + 2)


def _pointer(builder: Any, data: Any, at: Any, scalar: Any, kind: Any) -> Any:
    """Where the numbers from index `at` on are, as a pointer to `kind`."""
    start = builder.bitcast(data, scalar.as_pointer())
    return builder.bitcast(builder.gep(start, [at]), kind.as_pointer())


def _load(builder: Any, pointer: Any, bits: int) -> Any:
    return builder.load(pointer, align=bits // 8)


def _scalar(kind: Any) -> Any:
    return {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[kind.dtype]


def _of_lanes(scalar: Any, lanes: int) -> Any:
    return scalar if lanes == 1 else ir.VectorType(scalar, lanes)


def _lanes(scalar: Any) -> int:
    """Numbers in a register."""
    return BYTES_PER_REGISTER // (4 if isinstance(scalar, ir.FloatType) else 8)


def elementwise(formula: Callable[..., tuple[Vector, ...]]) -> Any:
    """Make a function (n, (input, at, .., output, at, ..)) of compiled code out of a formula of its inputs.

    An output may be an input at the same index.
    """
    inputs = formula.__code__.co_argcount

    @intrinsic
    def run(typing: Any, n: Any, arguments: Any) -> Any:
        kinds = arguments.types[::2]
        if any(not isinstance(kind, types.Array) or kind.dtype != kinds[0].dtype for kind in kinds):
            raise TypeError(f"arrays of one type, each followed by an index; got {arguments}.")

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            scalar = _scalar(kinds[0])
            bits = 32 if isinstance(scalar, ir.FloatType) else 64
            parts = cgutils.unpack_tuple(builder, values[1])
            data = [context.make_array(kind)(context, builder, parts[2 * i]).data for i, kind in enumerate(kinds)]
            starts = [context.cast(builder, at, kind, types.intp) for at, kind in zip(parts[1::2], arguments.types[1::2])]

            def write_loop(start: Any, stop: Any, lanes: int) -> None:
                kind, step = _of_lanes(scalar, lanes), ir.Constant(ir.IntType(64), lanes)
                with cgutils.for_range_slice(builder, start, stop, step) as (i, _):
                    pointers = [
                        _pointer(builder, part, builder.add(at, i), scalar, kind) for part, at in zip(data, starts)
                    ]
                    read = [Vector(builder, _load(builder, p, bits)) for p in pointers[:inputs]]
                    for vector, pointer in zip(formula(*read), pointers[inputs:], strict=True):
                        builder.store(vector.value, pointer, align=bits // 8)

            lanes = _lanes(scalar)
            zero = ir.Constant(ir.IntType(64), 0)
            whole = builder.and_(values[0], ir.Constant(ir.IntType(64), -lanes))
            write_loop(zero, whole, lanes)
            write_loop(whole, values[0], 1)
            return context.get_dummy_value()

        return types.void(types.int64, arguments), code

    return run


@intrinsic(prefer_literal=True)
def _tile(
    typing: Any, x: Any, x_at: Any, x_row: Any, x_inner: Any, w: Any, w_at: Any, w_inner: Any, out: Any, out_at: Any,
    out_row: Any, inner: Any, add: Any, rows: Any, vectors: Any, lanes: Any,
) -> Any:  # fmt: skip
    """A tile of `multiply`, `rows` by `vectors` times `lanes` (literals; lanes 0: a register's), held in registers."""
    if not all(isinstance(kind, types.IntegerLiteral) for kind in (rows, vectors, lanes)):
        return None
    rows_n, vectors_n, lanes_n = (kind.literal_value for kind in (rows, vectors, lanes))

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scalar, index = _scalar(w), ir.IntType(64)
        bits = 32 if isinstance(scalar, ir.FloatType) else 64
        width = lanes_n or _lanes(scalar)
        kind = _of_lanes(scalar, width)
        p_x, p_w, p_out = (
            context.make_array(kind)(context, builder, values[i]).data for i, kind in ((0, x), (4, w), (7, out))
        )
        _, x_at, x_row, x_inner, _, w_at, w_inner, _, out_at, out_row, inner, add = values[:12]
        zero, one = ir.Constant(index, 0), ir.Constant(index, 1)
        p_outs = [
            _pointer(
                builder, p_out,
                builder.add(builder.add(out_at, builder.mul(out_row, ir.Constant(index, r))), ir.Constant(index, v * width)),
                scalar, kind,
            )
            for r in range(rows_n) for v in range(vectors_n)
        ]  # fmt: skip
        entry = builder.block
        old, loop, done = (builder.append_basic_block(name) for name in ("old", "loop", "done"))
        builder.cbranch(add, old, loop)
        builder.position_at_end(old)
        loaded = [_load(builder, p, bits) for p in p_outs]
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(index)
        sums = [builder.phi(kind) for _ in p_outs]
        empty = ir.Constant(kind, None)
        for phi, at_entry, at_old in [(k, zero, zero), *((s, empty, o) for s, o in zip(sums, loaded, strict=True))]:
            phi.add_incoming(at_entry, entry)
            phi.add_incoming(at_old, old)
        at_w = builder.add(w_at, builder.mul(w_inner, k))
        vectors_of_w = [
            _load(builder, _pointer(builder, p_w, builder.add(at_w, ir.Constant(index, v * width)), scalar, kind), bits)
            for v in range(vectors_n)
        ]
        at_x = builder.add(x_at, builder.mul(x_inner, k))
        after = []
        for r in range(rows_n):
            at = builder.add(at_x, builder.mul(x_row, ir.Constant(index, r)))
            factor = _load(builder, _pointer(builder, p_x, at, scalar, scalar), bits)
            if width > 1:
                lane = builder.insert_element(ir.Constant(kind, ir.Undefined), factor, ir.Constant(ir.IntType(32), 0))
                mask = ir.Constant(ir.VectorType(ir.IntType(32), width), None)
                factor = builder.shuffle_vector(lane, ir.Constant(kind, ir.Undefined), mask)
            for v in range(vectors_n):
                after.append(_multiply_add(builder, factor, vectors_of_w[v], sums[r * vectors_n + v]))
        following = builder.add(k, one)
        for phi, value in zip([k, *sums], [following, *after], strict=True):
            phi.add_incoming(value, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, inner), loop, done)
        builder.position_at_end(done)
        for pointer, value in zip(p_outs, after, strict=True):
            builder.store(value, pointer, align=bits // 8)
        return context.get_dummy_value()

    numbers = (types.intp,) * 3
    signature = types.void(
        x, *numbers, w, *numbers[:2], out, *numbers[:2], types.intp, types.boolean, rows, vectors, lanes
    )
    return signature, code


def _panel(vectors: int, lanes: int) -> Any:
    """Rows of `multiply` in columns that make one tile."""

    @njit
    def run(x, x_at, x_row, x_inner, w, w_at, w_inner, out, out_at, out_row, rows, inner, add):
        i = 0
        while rows - i >= ROWS_PER_TILE:
            _tile(
                x, x_at + i * x_row, x_row, x_inner, w, w_at, w_inner, out, out_at + i * out_row, out_row, inner, add,
                ROWS_PER_TILE, vectors, lanes,
            )  # fmt: skip
            i += ROWS_PER_TILE
        while rows - i >= 4:
            _tile(
                x, x_at + i * x_row, x_row, x_inner, w, w_at, w_inner, out, out_at + i * out_row, out_row, inner, add,
                4, vectors, lanes,
            )  # fmt: skip
            i += 4
        while rows - i >= 1:
            _tile(
                x, x_at + i * x_row, x_row, x_inner, w, w_at, w_inner, out, out_at + i * out_row, out_row, inner, add,
                1, vectors, lanes,
            )  # fmt: skip
            i += 1

    return run


_wide, _one, _half, _single = _panel(VECTORS_PER_TILE, 0), _panel(1, 0), _panel(1, 4), _panel(1, 1)
NUMBERS = {4: BYTES_PER_REGISTER // 4, 8: BYTES_PER_REGISTER // 8}


@njit
def multiply(x, x_at, x_row, x_inner, w, w_at, w_inner, out, out_at, out_row, rows, inner, columns, add):
    """out[i, j] = sum_k x[i, k] w[k, j], or added to it, with x[i, k] = x[x_at + i x_row + k x_inner] and so on.

    Numbers of one row of w and of out are neighbours.
    """
    lanes = BYTES_PER_REGISTER // w.itemsize
    j = 0
    while columns - j >= lanes * VECTORS_PER_TILE:
        _wide(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += lanes * VECTORS_PER_TILE
    while columns - j >= lanes:
        _one(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += lanes
    while columns - j >= 4:
        _half(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += 4
    while columns - j >= 1:
        _single(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += 1
