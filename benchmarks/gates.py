"""Two gates for Triton kernels that need no GPU: the resources that their compiled code takes, and the bytes they move.

`launches` records what an operation's launch function would launch. `compile_only` compiles those launches for real
targets (Triton ships ptxas and LLVM; no driver is needed) and reads registers, spills and shared memory. `ledger` runs
the launches in Triton's interpreter and counts the bytes of every load, store and atomic.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from triton.runtime.jit import KernelInterface

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion")


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments of one launch."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one target; `spills` is local memory in bytes a thread (0: all in registers)."""

    kernel: str
    target: str
    registers: int
    spills: int
    shared_bytes: int
    vector_load_bytes: int


@dataclass
class Ledger:
    """Bytes moved by all launches.

    `loaded_bytes` and `stored_bytes` are what instructions ask for; an address that one instruction touches twice counts
    once (it coalesces). `touched_bytes` counts an address once for each launch and direction: what must cross the memory
    bus if the cache holds what a cloud's programs share. `unfenced_loads` are loads of addresses that were stored with no
    barrier in between: another thread may load before the store.
    """

    loaded_bytes: int = 0
    stored_bytes: int = 0
    touched_bytes: int = 0
    unfenced_loads: int = 0
    by_kernel: dict[str, int] = field(default_factory=dict)
    result: Any = None

    @property
    def bytes(self) -> int:
        return self.loaded_bytes + self.stored_bytes


def launches(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Launch]:
    """Run the launch function `fn` without launching, and return what it would have launched."""
    recorded: list[Launch] = []

    def record(kernel: Any, _grid: Any) -> Callable[..., None]:
        def launch(*positional: Any, **named: Any) -> None:
            options = {name: named.pop(name) for name in OPTIONS if name in named}
            names = [p.name for p in kernel.params]
            recorded.append(Launch(kernel, {**dict(zip(names, positional)), **named}, options))

        return launch

    with mock.patch.object(KernelInterface, "__getitem__", record):
        fn(*args, **kwargs)
    return recorded


def compile_only(recorded: Iterable[Launch], targets: Iterable[str] = TARGETS) -> list[Resources]:
    """Compile each recorded launch for each target; the kernels are specialised as at a real launch."""
    return [_compile(launch, target) for launch in recorded for target in targets]


def _compile(launch: Launch, target: str) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments.get(parameter.name, parameter.default)
        kind = "constexpr" if parameter.is_constexpr else _type(value)
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[parameter.name] = value
        elif kind.startswith("*") or (isinstance(value, int) and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = dict(launch.options)
    if target.startswith("gfx"):
        options.pop("maxnreg", None)  # an option of NVIDIA's compiler
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)
    read = _read_amd if target.startswith("gfx") else _read_nvidia
    registers, spills, vector = read(compiled.asm)
    return Resources(launch.kernel.fn.__name__, target, registers, spills, compiled.metadata.shared, vector)


def _type(value: Any) -> str:
    """Triton's name of an argument's type; None and 1 become constants, as at a real launch."""
    if isinstance(value, torch.Tensor):
        from triton.runtime.jit import type_canonicalisation_dict

        return "*" + type_canonicalisation_dict[str(value.dtype).removeprefix("torch.")]
    if value is None or (isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _read_nvidia(asm: dict[str, Any]) -> tuple[int, int, int]:
    """Registers, spilled bytes and the widest load in bytes, of a cubin."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = subprocess.check_output([tool, "--dump-resource-usage", file.name], text=True)
    count = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    loads = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.\w(\d+)", asm["ptx"])
    vector_load_bytes = max((int(n or 1) * int(bits) // 8 for n, bits in loads), default=0)
    return count["REG"], count["STACK"] + count["LOCAL"], vector_load_bytes


def _read_amd(asm: dict[str, Any]) -> tuple[int, int, int]:
    """The same, of AMD's assembly."""
    count = {name: int(value) for name, value in re.findall(r"\.(\w+):\s+(\d+)", asm["amdgcn"])}
    spills = count["private_segment_fixed_size"]  # scalar registers spill to vector ones, not to memory
    loads = re.findall(r"(?:global|buffer)_load_dword(?:x(\d))?", asm["amdgcn"])
    return count["vgpr_count"], spills, max((4 * int(n or 1) for n in loads), default=0)


def ledger(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Ledger:
    """Run `fn` in the interpreter (the process must have TRITON_INTERPRET=1) and count what its kernels move."""
    book = Ledger()
    with _count_bytes(book):
        book.result = fn(*args, **kwargs)
    return book


@contextlib.contextmanager
def _count_bytes(book: Ledger) -> Iterator[None]:
    from triton.runtime.interpreter import InterpreterBuilder

    load, store, atomic, barrier = (
        getattr(InterpreterBuilder, f"create_{name}")
        for name in ("masked_load", "masked_store", "atomic_rmw", "barrier")
    )
    start_launch = KernelInterface.__getitem__
    kernel_name = [""]
    seen: set[tuple[bool, int]] = set()
    unfenced: set[int] = set()

    def count(pointers: Any, mask: Any, store: bool = False) -> int:
        touched = pointers.data[mask.data] if mask is not None else pointers.data.ravel()
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        addresses = set(touched.ravel().tolist())
        moved = len(addresses) * size
        fresh = {(store, address) for address in addresses} - seen
        seen.update(fresh)
        if store:
            unfenced.update(addresses)
        else:
            book.unfenced_loads += len(unfenced & addresses)
        book.touched_bytes += len(fresh) * size
        book.by_kernel[kernel_name[0]] = book.by_kernel.get(kernel_name[0], 0) + moved
        return moved

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        book.loaded_bytes += count(ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        book.stored_bytes += count(ptrs, mask, store=True)
        return store(self, ptrs, value, mask, *rest)

    def counted_atomic(self: Any, op: Any, ptr: Any, value: Any, mask: Any, *rest: Any) -> Any:
        moved = count(ptr, mask)
        book.loaded_bytes += moved
        book.stored_bytes += moved
        return atomic(self, op, ptr, value, mask, *rest)

    def counted_barrier(self: Any) -> Any:
        unfenced.clear()
        return barrier(self)

    def counted_launch(kernel: Any, grid: Any) -> Any:
        kernel_name[0] = kernel.fn.__name__
        seen.clear()
        unfenced.clear()
        return start_launch(kernel, grid)

    with (
        mock.patch.object(InterpreterBuilder, "create_masked_load", counted_load),
        mock.patch.object(InterpreterBuilder, "create_masked_store", counted_store),
        mock.patch.object(InterpreterBuilder, "create_atomic_rmw", counted_atomic),
        mock.patch.object(InterpreterBuilder, "create_barrier", counted_barrier),
        mock.patch.object(KernelInterface, "__getitem__", counted_launch),
    ):
        yield
