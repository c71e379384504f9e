"""Linear layer, BatchNorm, activation and the max over each cloud's points, without the activations."""

from dropfold.kernels.norm.linear_norm_max.operation import linear_norm_max, reference

__all__ = ["linear_norm_max", "reference"]
