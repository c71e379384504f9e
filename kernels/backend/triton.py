"""Triton, imported at the first launch and not before.

`@jit` marks a function as Triton code. Nothing is compiled and Triton is not imported until the kernel is launched:

    @jit
    def _scale_fwd_kernel(p_x, p_y, n, BLOCK: "tl.constexpr"): ...

    _scale_fwd_kernel[(cdiv(n, 1024),)](x, y, n, BLOCK=1024)

Device functions that kernels call are marked in the same way. A module that holds Triton code writes
`if TYPE_CHECKING: import triton.language as tl`; the name `tl` is bound in it when its first kernel is materialised.

With TRITON_INTERPRET=1 in the environment the same launch runs on CPU tensors, in Triton's interpreter.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch


class JitFunction:
    """A Triton function that is yet to be compiled; `kernel[grid](...)` compiles and launches it."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        functools.update_wrapper(self, fn)  # type: ignore[arg-type]

    @functools.cached_property
    def triton(self) -> Any:
        """The `triton.JITFunction` (or, under TRITON_INTERPRET=1, the interpreted function)."""
        try:
            import triton
            import triton.language
        except ImportError as error:
            raise ImportError(
                f"{self.fn.__qualname__} is a Triton kernel and Triton is not installed; "
                "install it with `pip install triton`, or move the tensors to the CPU, which needs no Triton."
            ) from error
        if os.environ.get("TRITON_INTERPRET") == "1":
            _fold_xor_by_numpy()
        scope = self.fn.__globals__
        scope["tl"] = triton.language
        # Triton resolves what a kernel calls through the module's globals: those too must be Triton's own by now.
        for name in self.fn.__code__.co_names:
            if isinstance(scope.get(name), JitFunction):
                scope[name] = scope[name].triton
        return triton.jit(self.fn)

    def __getitem__(self, grid: Any) -> Any:
        return self.triton[grid]


def jit(fn: Callable[..., Any]) -> Any:
    """Mark `fn` as Triton code, to be compiled when it is first launched."""
    return JitFunction(fn)


@functools.cache
def _fold_xor_by_numpy() -> None:
    """Give Triton's interpreter an exclusive or. It folds by NumPy what it knows (sum, min, max) and all else number by
    number, and its sorts, which are made of exclusive ors, take several times as long."""
    import numpy as np
    from triton.language import standard
    from triton.runtime.interpreter import ReduceOps

    others = ReduceOps.apply_impl

    def apply(self: Any, values: Any) -> Any:
        if self.combine_fn is not standard._xor_combine:
            return others(self, values)
        folded = np.bitwise_xor.reduce(values[0].handle.data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(folded, values[0].dtype)

    ReduceOps.apply_impl = apply


def cdiv(a: int, b: int) -> int:
    """Ceiling division, `ceil(a / b)` for positive integers."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << max(0, n - 1).bit_length()


def all_registers() -> dict[str, int]:
    """Launch options of a kernel with few programs: NVIDIA's compiler is not to spill for the sake of more of them."""
    return {} if torch.version.hip else {"maxnreg": 255}


def precision(x: torch.Tensor) -> str:
    """Of float32 products: TF32 where torch is allowed it, by the setting that its older ones change too."""
    return "tf32" if x.is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that sums of `dtype` are kept in: float64 for itself, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
