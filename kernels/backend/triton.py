"""`triton.jit`, or a sentence that says what to install; imported by the files that hold Triton kernels.

With TRITON_INTERPRET=1 in the environment Triton interprets the kernels on CPU tensors.
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
    """Let Triton's interpreter reduce by exclusive or in NumPy, as it does sums, minima and maxima.

    Otherwise it reduces number by number, and sorts, which consist of exclusive ors, take several times as long.
    """
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
