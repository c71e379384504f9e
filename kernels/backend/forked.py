"""Compiled loops in a forked process, a DataLoader's worker say: they run on one thread.

The threads of GNU OpenMP, with which numba shares loops, do not survive a fork, and numba ends a forked process that starts
such a loop. So every shared loop begins with a look at a flag that is set in forked children: a child runs the whole loop
on its own thread, which gives the same numbers.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.np.ufunc import parallel

SYMBOL = "numba_parallel_for"  # what numba's code calls to share a loop
_is_forked = ctypes.c_int32(0)


@functools.cache
def run_alone_after_fork() -> Any:
    """Put the look at the flag before numba's sharing; code that is loaded later calls it. Returns what keeps it alive."""
    parallel._launch_threads()  # which says where numba's own function is
    byte, size = ir.IntType(8).as_pointer(), ir.IntType(64)
    shared_type = ir.FunctionType(ir.VoidType(), [byte] * 5 + [size] * 3)
    loop_type = ir.FunctionType(ir.VoidType(), [byte] * 4)
    module = ir.Module("dropfold_forked")
    function = ir.Function(module, shared_type, "dropfold_parallel_for")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    flag = builder.inttoptr(ir.Constant(size, ctypes.addressof(_is_forked)), ir.IntType(32).as_pointer())
    with builder.if_else(builder.trunc(builder.load(flag), ir.IntType(1))) as (forked, parent):
        with forked:
            loop, *arguments = function.args
            builder.call(builder.bitcast(loop, loop_type.as_pointer()), arguments[:4])
        with parent:
            own = builder.inttoptr(
                ir.Constant(size, llvm.address_of_symbol(SYMBOL)), shared_type.as_pointer()
            )
            builder.call(own, function.args)
    builder.ret_void()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    llvm.add_symbol(SYMBOL, engine.get_function_address(function.name))
    return engine


def _after_fork() -> None:
    if run_alone_after_fork.cache_info().currsize:  # numba had threads, which are gone
        _is_forked.value = 1


os.register_at_fork(after_in_child=_after_fork)
