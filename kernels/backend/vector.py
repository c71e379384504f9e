"""Vector instructions inside compiled loops: formulas over whole registers, and products of small matrices.

LLVM vectorises a plain loop only where it can prove that few arrays do not overlap, which fails for the eight arrays of an
LSTM's cell. So these loops are written as vector instructions of the processor at hand (AVX-512, AVX2, NEON), which LLVM
schedules.

    @elementwise
    def scaled_sigmoid(x, y): return sigmoid(x) * y,

    scaled_sigmoid(n, (x, x_at, y, y_at, out, out_at))          out[out_at + i] = sigmoid(x[x_at + i]) y[y_at + i], i < n

    multiply(routine, x, x_at, x_row, x_inner, w, .., out, .., rows, inner, columns, add)          out = x w, or out += x w

Arrays are one-dimensional and contiguous; `at` is the index of the first number. Nothing is checked. The code of `multiply`
is compiled once, and loops call it by its address, because a loop that contains it takes a minute to compile.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def _bytes_per_register() -> int:
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


BYTES_PER_REGISTER = _bytes_per_register()
ROWS_PER_TILE = {64: 12, 32: 6, 16: 6}[BYTES_PER_REGISTER]
VECTORS_PER_TILE = {64: 2, 32: 2, 16: 4}[BYTES_PER_REGISTER]
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


def larger(x: Vector, y: Vector) -> Vector:
    """max(x, y); NaN wins."""
    builder = x.builder
    above = builder.fcmp_ordered(">", x.value, y.value)
    nan = builder.fcmp_unordered("uno", x.value, x.value)
    largest = builder.select(
        above, x.value, y.value
    )  # one test at a time: AVX2 joins two in many instructions
    return Vector(builder, builder.select(nan, x.value, largest))


def leaky_relu(x: Vector, slope: Vector) -> Vector:
    """x where it is positive, and slope x elsewhere; with slope 0, a ReLU, 0 of -inf too. NaN stays NaN."""
    builder = x.builder
    relu = builder.fcmp_ordered("==", slope.value, x._constant(0.0))
    finite = float(np.finfo(np.float32 if x.bits == 32 else np.float64).min)  # 0 times this is 0
    floor = builder.select(relu, x._constant(finite), x._constant(-math.inf))
    below = builder.fcmp_ordered(">", floor, x.value)
    positive = builder.fcmp_ordered(">", x.value, x._constant(0.0))
    bounded = Vector(builder, builder.select(below, floor, x.value))
    return Vector(builder, builder.select(positive, x.value, (bounded * slope).value))


def _pointer(builder: Any, data: Any, at: Any, scalar: Any, kind: Any) -> Any:
    """Where the numbers from index `at` on are, as a pointer to `kind`."""
    start = builder.bitcast(data, scalar.as_pointer())
    return builder.bitcast(builder.gep(start, [at]), kind.as_pointer())


def _load(builder: Any, pointer: Any, bits: int) -> Any:
    return builder.load(pointer, align=bits // 8)


def _scalar(kind: Any) -> Any:
    """The numbers of an array or a pointer."""
    return {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[kind.dtype]


def _of_lanes(scalar: Any, lanes: int) -> Any:
    return scalar if lanes == 1 else ir.VectorType(scalar, lanes)


def _lanes(scalar: Any) -> int:
    """Numbers in a register."""
    return BYTES_PER_REGISTER // (4 if isinstance(scalar, ir.FloatType) else 8)


def elementwise(formula: Callable[..., tuple[Vector, ...]]) -> Any:
    """Make a function (n, (input, at, .., output, at, ..)) of compiled code out of a formula of its inputs.

    An input may be a number instead of an array, whatever index follows. An output may be an input at the same index.
    """
    inputs = formula.__code__.co_argcount

    @intrinsic
    def run(typing: Any, n: Any, arguments: Any) -> Any:
        kinds = arguments.types[::2]
        number = kinds[-1].dtype
        if any(getattr(kind, "dtype", kind) != number for kind in kinds):
            raise TypeError(f"arrays and numbers of one type, each followed by an index; got {arguments}.")

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            scalar = _scalar(kinds[-1])
            bits = 32 if isinstance(scalar, ir.FloatType) else 64
            parts = cgutils.unpack_tuple(builder, values[1])
            arrays = [isinstance(kind, types.Array) for kind in kinds]
            data = [
                context.make_array(kind)(context, builder, part).data if is_array else part
                for kind, is_array, part in zip(kinds, arrays, parts[::2], strict=True)
            ]
            starts = [
                context.cast(builder, at, kind, types.intp)
                for at, kind in zip(parts[1::2], arguments.types[1::2])
            ]

            def write_loop(start: Any, stop: Any, lanes: int) -> None:
                kind, step = _of_lanes(scalar, lanes), ir.Constant(ir.IntType(64), lanes)
                with cgutils.for_range_slice(builder, start, stop, step) as (i, _):
                    places = [
                        _pointer(builder, part, builder.add(at, i), scalar, kind)
                        if is_array
                        else _repeat(builder, part, lanes)
                        for part, at, is_array in zip(data, starts, arrays, strict=True)
                    ]
                    read = [
                        Vector(builder, _load(builder, place, bits) if is_array else place)
                        for place, is_array in zip(places[:inputs], arrays[:inputs], strict=True)
                    ]
                    for vector, pointer in zip(formula(*read), places[inputs:], strict=True):
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
    out_row: Any, inner: Any, add: Any, rows: Any, most: Any, vectors: Any, lanes: Any,
) -> Any:  # fmt: skip
    """A tile of `multiply` held in registers: 1 to `most` rows of `vectors` vectors of `lanes` numbers (0: a register's);
    inner is 1 at least.

    The last three are literals.
    """
    if not all(isinstance(kind, types.IntegerLiteral) for kind in (most, vectors, lanes)):
        return None

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scalar = _scalar(w)
        width = lanes.literal_value or _lanes(scalar)
        done = builder.append_basic_block("done")
        choice = builder.switch(values[12], done)
        for n in range(1, most.literal_value + 1):
            block = builder.append_basic_block(f"rows{n}")
            choice.add_case(ir.Constant(ir.IntType(64), n), block)
            builder.position_at_end(block)
            _write_tile(builder, values[:12], scalar, n, vectors.literal_value, width)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    integers = (types.int64,) * 3
    arguments = x, *integers, w, *integers[:2], out, *integers[:2], *integers
    return types.void(*arguments, most, vectors, lanes), code


def _write_tile(builder: Any, values: Any, scalar: Any, rows: int, vectors: int, width: int) -> None:
    """The code of a tile, the arguments of `_tile` in `values`."""
    p_x, x_at, x_row, x_inner, p_w, w_at, w_inner, p_out, out_at, out_row, inner, add = values
    index, kind = ir.IntType(64), _of_lanes(scalar, width)
    bits = 32 if isinstance(scalar, ir.FloatType) else 64
    zero, one = ir.Constant(index, 0), ir.Constant(index, 1)

    def places(at: Any, stride: Any) -> list[Any]:
        return [builder.add(at, builder.mul(stride, ir.Constant(index, row))) for row in range(rows)]

    columns = [ir.Constant(index, v * width) for v in range(vectors)]
    p_outs = [
        _pointer(builder, p_out, builder.add(at, column), scalar, kind)
        for at in places(out_at, out_row)
        for column in columns
    ]
    entry = builder.block
    old, loop, done = (builder.append_basic_block(name) for name in ("old", "loop", "done"))
    builder.cbranch(builder.icmp_signed("!=", add, zero), old, loop)
    builder.position_at_end(old)
    loaded = [_load(builder, p, bits) for p in p_outs]
    builder.branch(loop)

    builder.position_at_end(loop)
    k = builder.phi(index)
    sums = [builder.phi(kind) for _ in p_outs]
    k.add_incoming(zero, entry)
    k.add_incoming(zero, old)
    for total, number in zip(sums, loaded, strict=True):
        total.add_incoming(ir.Constant(kind, None), entry)
        total.add_incoming(number, old)
    at = builder.add(w_at, builder.mul(w_inner, k))
    parts = [
        _load(builder, _pointer(builder, p_w, builder.add(at, column), scalar, kind), bits)
        for column in columns
    ]
    after: list[Any] = []
    for at in places(builder.add(x_at, builder.mul(x_inner, k)), x_row):
        factor = _load(builder, _pointer(builder, p_x, at, scalar, scalar), bits)
        factor = _repeat(builder, factor, width)
        start = len(after)
        after += [_multiply_add(builder, factor, part, sums[start + v]) for v, part in enumerate(parts)]
    following = builder.add(k, one)
    for phi, value in zip([k, *sums], [following, *after], strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, inner), loop, done)

    builder.position_at_end(done)
    for pointer, value in zip(p_outs, after, strict=True):
        builder.store(value, pointer, align=bits // 8)


def _repeat(builder: Any, number: Any, lanes: int) -> Any:
    """A vector of one number."""
    if lanes == 1:
        return number
    kind = ir.VectorType(number.type, lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


@intrinsic(prefer_literal=True)
def _largest(
    typing: Any, q: Any, q_at: Any, q_row: Any, idx: Any, idx_at: Any, k: Any, out: Any, out_at: Any, vectors: Any,
    lanes: Any,
) -> Any:  # fmt: skip
    """Some columns of `largest_of_rows` held in registers: `vectors` vectors of `lanes` numbers (0: a register's).

    The last two are literals.
    """
    if not all(isinstance(kind, types.IntegerLiteral) for kind in (vectors, lanes)):
        return None

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scalar, index = _scalar(q), ir.IntType(64)
        width, bits = lanes.literal_value or _lanes(scalar), 32 if isinstance(scalar, ir.FloatType) else 64
        kind = _of_lanes(scalar, width)
        data = [
            context.make_array(array)(context, builder, values[i]).data
            for i, array in ((0, q), (3, idx), (6, out))
        ]
        p_q, p_idx, p_out = data
        columns = [ir.Constant(index, v * width) for v in range(vectors.literal_value)]

        def read(position: Any) -> list[Vector]:
            row = builder.load(_pointer(builder, p_idx, builder.add(values[4], position), index, index))
            at = builder.add(values[1], builder.mul(row, values[2]))
            pointers = [_pointer(builder, p_q, builder.add(at, column), scalar, kind) for column in columns]
            return [Vector(builder, _load(builder, pointer, bits)) for pointer in pointers]

        one = ir.Constant(index, 1)
        first, entry = read(ir.Constant(index, 0)), builder.block
        loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", values[5], one), loop, done)
        builder.position_at_end(loop)
        position, best = builder.phi(index), [builder.phi(kind) for _ in columns]
        after = [larger(x, Vector(builder, y)) for x, y in zip(read(position), best, strict=True)]
        following = builder.add(position, one)
        for phi, start, step in zip(
            [position, *best],
            [one, *(x.value for x in first)],
            [following, *(x.value for x in after)],
            strict=True,
        ):
            phi.add_incoming(start, entry)
            phi.add_incoming(step, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, values[5]), loop, done)
        loop = builder.block
        builder.position_at_end(done)
        largest = [builder.phi(kind) for _ in columns]
        for phi, x, y in zip(largest, first, after, strict=True):
            phi.add_incoming(x.value, entry)
            phi.add_incoming(y.value, loop)
        for column, phi in zip(columns, largest, strict=True):
            pointer = _pointer(builder, p_out, builder.add(values[7], column), scalar, kind)
            builder.store(phi, pointer, align=bits // 8)
        return context.get_dummy_value()

    integers = (types.int64, types.int64)
    return types.void(q, *integers, idx, *integers, out, types.int64, vectors, lanes), code


LARGEST_VECTORS = 8  # of `largest_of_rows`, at a time


@numba.njit
def largest_of_rows(q, q_row, idx, idx_at, k, out, out_at, columns):
    """out[out_at + c] = the largest of q[idx[idx_at + e] q_row + c] over e < k, for c < columns; NaN wins; k > 0."""
    lanes, c = BYTES_PER_REGISTER // q.itemsize, 0
    while columns - c >= LARGEST_VECTORS * lanes:
        _largest(q, c, q_row, idx, idx_at, k, out, out_at + c, LARGEST_VECTORS, 0)
        c += LARGEST_VECTORS * lanes
    while columns - c >= lanes:
        _largest(q, c, q_row, idx, idx_at, k, out, out_at + c, 1, 0)
        c += lanes
    while c < columns:
        _largest(q, c, q_row, idx, idx_at, k, out, out_at + c, 1, 1)
        c += 1


def _multiply_columns(most: int, vectors: int, lanes: int) -> Any:
    """Rows of `multiply` in the columns of one tile, cut into tiles of nearly equal numbers of rows, `most` at most."""

    @numba.njit
    def run(x, x_at, x_row, x_inner, w, w_at, w_inner, out, out_at, out_row, rows, inner, add):
        while rows:
            tiles = (rows + most - 1) // most
            n = (rows + tiles - 1) // tiles
            _tile(
                x, x_at, x_row, x_inner, w, w_at, w_inner, out, out_at, out_row, inner, add, n, most, vectors, lanes
            )  # fmt: skip
            rows, x_at, out_at = rows - n, x_at + n * x_row, out_at + n * out_row

    return run


VECTORS_OF_ONE_ROW = 8  # as many sums as a processor needs to add to one in every cycle
_row = _multiply_columns(1, VECTORS_OF_ONE_ROW, 0)
_wide = _multiply_columns(ROWS_PER_TILE, VECTORS_PER_TILE, 0)
_vector = _multiply_columns(ROWS_PER_TILE, 1, 0)
_four = _multiply_columns(4, 1, 4)
_single = _multiply_columns(4, 1, 1)

# The types of `multiply`'s arguments: arrays, and indices, strides and sizes.
ARRAYS = (0, 4, 7)
ARGUMENTS = 14


@functools.cache
def _compile_multiply(dtype: torch.dtype) -> Any:
    pointer = types.CPointer({torch.float32: types.float32, torch.float64: types.float64}[dtype])
    kinds = [pointer if i in ARRAYS else types.int64 for i in range(ARGUMENTS + 1)]
    return numba.cfunc(types.void(*kinds), cache=True)(_multiply)


def multiply_routine(dtype: torch.dtype) -> int:
    """The address of `multiply`'s code for float32 or float64.

    Raises:
        RuntimeError: numba is told to compile nothing, and vector instructions have no Python form.
    """
    check_compiling()
    return _compile_multiply(dtype).address


def check_compiling() -> None:
    """Refuse to go on if numba is told to compile nothing: vector instructions have no Python form."""
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise RuntimeError(
            "this operation is compiled by numba, which NUMBA_DISABLE_JIT switches off: unset it, or take the operation's "
            "`reference`, or the plain form, `with dropfold.models.unfused(network):`."
        )


@intrinsic
def multiply(
    typing: Any, routine: Any, x: Any, x_at: Any, x_row: Any, x_inner: Any, w: Any, w_at: Any, w_inner: Any, out: Any,
    out_at: Any, out_row: Any, rows: Any, inner: Any, columns: Any, add: Any,
) -> Any:  # fmt: skip
    """out[i, j] = sum_k x[i, k] w[k, j], or added to it if `add` is not 0: i < rows, k < inner, j < columns, of which rows
    and columns are 1 at least. A sum of nothing (inner = 0) is 0.

    x[i, k] is x[x_at + i x_row + k x_inner]; numbers of one row of w, and of out, are neighbours.
    """
    kinds = (x, x_at, x_row, x_inner, w, w_at, w_inner, out, out_at, out_row, rows, inner, columns, add)

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        index, arguments = ir.IntType(64), []
        for i, (kind, value) in enumerate(zip(kinds, values[1:], strict=True)):
            if i in ARRAYS:
                arguments.append(context.make_array(kind)(context, builder, value).data)
            else:
                arguments.append(value)
        arguments.append(ir.Constant(index, _lanes(_scalar(w))))
        function = ir.FunctionType(ir.VoidType(), [value.type for value in arguments])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), arguments)
        return context.get_dummy_value()

    integers = (types.int64,) * 3
    return types.void(
        types.int64, x, *integers, w, *integers[:2], out, *integers[:2], *integers, types.int64
    ), code


def _multiply(
    x, x_at, x_row, x_inner, w, w_at, w_inner, out, out_at, out_row, rows, inner, columns, add, lanes
):
    if inner == 0:
        for i in range(0 if add else rows):
            for j in range(columns):
                out[out_at + i * out_row + j] = 0
        return
    j = 0
    while rows == 1 and columns - j >= lanes * VECTORS_OF_ONE_ROW:
        _row(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += lanes * VECTORS_OF_ONE_ROW
    while columns - j >= lanes * VECTORS_PER_TILE:
        _wide(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += lanes * VECTORS_PER_TILE
    while columns - j >= lanes:
        _vector(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += lanes
    while columns - j >= 4:
        _four(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += 4
    while columns > j:
        _single(x, x_at, x_row, x_inner, w, w_at + j, w_inner, out, out_at + j, out_row, rows, inner, add)
        j += 1
