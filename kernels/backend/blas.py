"""Matrix products inside compiled loops: the BLAS that torch ships, called without Python.

A torch built with MKL exports the Fortran routines on Linux. Called from numba, a product does not take Python's lock, so
threads that multiply tiles do not wait for each other. It obeys `torch.set_num_threads`, as torch's own products do.
Other libraries (OpenBLAS, Accelerate) count their threads in their own ways and are not called.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.extending import intrinsic

from dropfold.kernels.backend.numba import njit

LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
BYTE_POINTER = ir.IntType(8).as_pointer()
ROUTINES = {torch.float32: "sgemm_", torch.float64: "dgemm_"}


@functools.cache
def routine(dtype: torch.dtype) -> int:
    """The address of the routine that multiplies matrices of `dtype`; 0 if there is none, or numba compiles nothing."""
    compiled = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    if dtype not in ROUTINES or not compiled or not torch.backends.mkl.is_available():
        return 0
    try:
        function = getattr(ctypes.CDLL(str(LIBRARY)), ROUTINES[dtype])
    except (OSError, AttributeError):  # another system, or a torch that exports none
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@intrinsic
def _call(typing: Any, address: Any, arguments: Any) -> Any:
    """`_call(address, arguments)` of a Fortran routine: an array is passed as its memory, a number by reference."""
    arrays = [kind for kind in arguments if isinstance(kind, types.Array)]
    if any(kind.layout != "C" or kind.dtype != arrays[0].dtype for kind in arrays):
        raise errors.TypingError(f"arrays must be contiguous and of one type; got {arguments}.")

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointers = []
        for kind, value in zip(arguments, cgutils.unpack_tuple(builder, values[1]), strict=True):
            if isinstance(kind, types.Array):
                pointer = context.make_array(kind)(context, builder, value).data
            else:
                pointer = cgutils.alloca_once_value(builder, value)
            pointers.append(builder.bitcast(pointer, BYTE_POINTER))
        function = ir.FunctionType(ir.VoidType(), [BYTE_POINTER] * len(pointers))
        builder.call(builder.inttoptr(values[0], function.as_pointer()), pointers)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), code


@njit
def product(blas, x, transpose_x, y, transpose_y, old, out):
    """out = x y + old * out with x, y or both transposed; with old = 0 `out` may hold anything, also NaN.

    Sizes are passed with 64 bits; on a little-endian machine a BLAS that reads 32 of them sees the same number.
    """
    rows, columns = np.int64(out.shape[0]), np.int64(out.shape[1])
    inner = np.int64(x.shape[0] if transpose_x else x.shape[1])
    # Fortran stores columns one after another, so it computes out^T = y^T x^T.
    transposed, plain = np.uint8(84), np.uint8(78)  # the letters T and N
    letters = (transposed if transpose_y else plain, transposed if transpose_x else plain)
    one, beta, least = (
        out.dtype.type(1),
        out.dtype.type(old),
        np.int64(1),
    )  # BLAS takes no rows 0 numbers apart
    apart_y, apart_x = max(least, np.int64(y.shape[1])), max(least, np.int64(x.shape[1]))
    operands = (one, y, apart_y, x, apart_x, beta, out, max(least, columns))
    _call(blas, (*letters, columns, rows, inner, *operands))
