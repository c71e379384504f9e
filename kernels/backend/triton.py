"""Triton's compiler, or, with TRITON_INTERPRET=1 in the environment, its interpreter on CPU tensors.

Imported by files that hold Triton kernels, at their first launch.
"""

from __future__ import annotations

import os
from typing import Any

try:
    import triton
except ImportError as error:
    raise ImportError(
        "CUDA and ROCm tensors run in Triton kernels and Triton is not installed; "
        "install it with `pip install triton`, or move the tensors to the CPU, which needs no Triton."
    ) from error

jit = triton.jit


def _reduce_xor_by_numpy() -> None:
    """Give Triton's interpreter an exclusive or. It reduces by NumPy what it knows (sum, min, max) and all else number by
    number, and its sorts, which are made of exclusive ors, take several times as long."""
    import numpy as np
    from triton.language import standard
    from triton.runtime.interpreter import ReduceOps

    apply_others = ReduceOps.apply_impl

    def apply(self: Any, values: Any) -> Any:
        if self.combine_fn is not standard._xor_combine:
            return apply_others(self, values)
        reduced = np.bitwise_xor.reduce(values[0].handle.data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(reduced, values[0].dtype)

    ReduceOps.apply_impl = apply


if os.environ.get("TRITON_INTERPRET") == "1":
    _reduce_xor_by_numpy()
