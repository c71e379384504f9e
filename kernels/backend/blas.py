"""Matrix products inside compiled loops: the BLAS that torch brings, called without Python.

Where torch is built with MKL, its library on Linux exports the Fortran routines. Called there, a product does not take
Python's lock: threads that make products of tiles do not wait for each other. It obeys `torch.set_num_threads`, as torch's
own products do. Other libraries (OpenBLAS, Accelerate) count their threads in their own ways and are not called.
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
BYTES = ir.IntType(8).as_pointer()
ROUTINES = {torch.float32: "sgemm_", torch.float64: "dgemm_"}


@functools.cache
def routine(dtype: torch.dtype) -> int:
    """The address of the product of `dtype`; 0 where there is none, or nothing is compiled."""
    compiled = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    if dtype not in ROUTINES or not compiled or not torch.backends.mkl.is_available():
        return 0
    try:
        found = getattr(ctypes.CDLL(str(LIBRARY)), ROUTINES[dtype])
    except (OSError, AttributeError):  # another system, or a torch that exports none
        return 0
    return ctypes.cast(found, ctypes.c_void_p).value or 0


@intrinsic
def _call(typing: Any, address: Any, arguments: Any) -> Any:
    """`_call(address, arguments)` of a Fortran routine: an array goes as its memory, anything else by reference."""
    arrays = [kind for kind in arguments if isinstance(kind, types.Array)]
    if any(kind.layout != "C" or kind.dtype != arrays[0].dtype for kind in arrays):
        raise errors.TypingError(f"arrays must be contiguous and of one type; got {arguments}.")

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointers = []
        for kind, value in zip(arguments, cgutils.unpack_tuple(builder, given[1]), strict=True):
            if isinstance(kind, types.Array):
                pointer = context.make_array(kind)(context, builder, value).data
            else:
                pointer = cgutils.alloca_once_value(builder, value)
            pointers.append(builder.bitcast(pointer, BYTES))
        function = ir.FunctionType(ir.VoidType(), [BYTES] * len(pointers))
        builder.call(builder.inttoptr(given[0], function.as_pointer()), pointers)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), code


@njit
def product(blas, x, x_turned, y, y_turned, old, out):
    """out = x y + old * out with x, y or both transposed; with old 0 it does not matter what out holds.

    Sizes have 64 bits, which on a little-endian machine is right for a BLAS that reads 32 as well.
    """
    rows, columns = np.int64(out.shape[0]), np.int64(out.shape[1])
    inner = np.int64(x.shape[0] if x_turned else x.shape[1])
    # Fortran counts by columns, and sees out^T = y^T x^T.
    turned, not_turned = np.uint8(84), np.uint8(78)  # the letters T and N
    letters = (turned if y_turned else not_turned, turned if x_turned else not_turned)
    one, kept = out.dtype.type(1), out.dtype.type(old)
    operands = (one, y, np.int64(y.shape[1]), x, np.int64(x.shape[1]), kept, out, columns)
    _call(blas, (*letters, columns, rows, inner, *operands))
