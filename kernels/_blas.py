"""Matrix products inside compiled loops: the BLAS that torch brings, called without Python.

torch's library exports the Fortran routines of its BLAS (MKL, OpenBLAS or Accelerate) on Linux and macOS. Called there, a
product obeys `torch.set_num_threads` and takes no lock: threads that make products of tiles do not wait for each other.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels._gemm import wide
from kernels._numba import NumbaFunction, njit

LIBRARIES = "libtorch_cpu.so", "libtorch_cpu.dylib"
ROUTINES = {torch.float32: "sgemm_", torch.float64: "dgemm_"}


@functools.cache
def routine(dtype: torch.dtype) -> int:
    """The address of the product of `dtype`; 0 where there is none, nothing is compiled, or oneDNN is the faster library."""
    import numba

    if dtype not in ROUTINES or wide() or numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return 0
    for path in (Path(torch.__file__).parent / "lib" / name for name in LIBRARIES):
        if path.exists():
            found = getattr(ctypes.CDLL(str(path)), ROUTINES[dtype], None)
            return 0 if found is None else ctypes.cast(found, ctypes.c_void_p).value or 0
    return 0


class _Fortran(NumbaFunction):
    """`call(address, arguments)`: an array goes as its memory, anything else by reference."""

    @functools.cached_property
    def compiled(self) -> Any:
        from llvmlite import ir
        from numba.core import cgutils, types
        from numba.extending import intrinsic

        byte = ir.IntType(8).as_pointer()

        @intrinsic
        def call(typing: Any, address: Any, arguments: Any) -> Any:
            def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                pointers = []
                for kind, value in zip(arguments, cgutils.unpack_tuple(builder, given[1]), strict=True):
                    if isinstance(kind, types.Array):
                        pointer = context.make_array(kind)(context, builder, value).data
                    else:
                        pointer = cgutils.alloca_once_value(builder, value)
                    pointers.append(builder.bitcast(pointer, byte))
                function = ir.FunctionType(ir.VoidType(), [byte] * len(pointers))
                builder.call(builder.inttoptr(given[0], function.as_pointer()), pointers)
                return context.get_dummy_value()

            return types.void(types.int64, arguments), code

        return call


def _call(address, arguments):
    """Stands for the intrinsic until it is compiled."""


_call = _Fortran(_call, {"parallel": False})


@njit
def product(blas, x, x_turned, y, y_turned, old, out):
    """out = x y + old * out with x, y or both transposed; the rows of each array follow one another.

    The sizes are of 64 bits: on a little-endian machine that is right for a BLAS of 32 as well.
    """
    rows, columns = out.shape
    inner = x.shape[0] if x_turned else x.shape[1]
    # By columns, as Fortran counts: out^T = y^T x^T.
    turned_y, turned_x = np.uint8(84 if y_turned else 78), np.uint8(84 if x_turned else 78)  # T or N
    sizes = (np.int64(columns), np.int64(rows), np.int64(inner))
    one, kept = out.dtype.type(1), out.dtype.type(old)
    widths = (np.int64(y.shape[1]), np.int64(x.shape[1]), np.int64(columns))
    _call(
        blas,
        (
            turned_y,
            turned_x,
            sizes[0],
            sizes[1],
            sizes[2],
            one,
            y,
            widths[0],
            x,
            widths[1],
            kept,
            out,
            widths[2],
        ),
    )
