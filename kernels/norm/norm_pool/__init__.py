"""BatchNorm, activation, noise, then max and mean over each cloud's points; the activations are not stored."""

from dropfold.kernels.norm.norm_pool.operation import (
    linear_norm_pool,
    linear_reference,
    norm_pool,
    reference,
)

__all__ = ["linear_norm_pool", "linear_reference", "norm_pool", "reference"]
