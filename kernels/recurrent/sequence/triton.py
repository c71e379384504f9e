"""sequence in Triton."""

from __future__ import annotations

import triton.language as tl

from dropfold.kernels.backend.triton import jit


@jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@jit
def tanh(x):
    return 2 / (1 + tl.exp(-2 * x)) - 1


@jit
def load_sum(p_a, p_b, there):
    """The sum of two loads, in float32."""
    return tl.load(p_a, mask=there, other=0.0).to(tl.float32) + tl.load(p_b, mask=there, other=0.0).to(
        tl.float32
    )
