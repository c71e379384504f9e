"""A shared perceptron over groups of points and the max over each group, as PointNet++ needs it."""

from dropfold.kernels.group_mlp_max.operation import group_mlp_max, reference

__all__ = ["group_mlp_max", "reference"]
