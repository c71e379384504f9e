"""Features of points from the k nearest points that have them, weighted by inverse squared distance."""

from dropfold.kernels.points.three_nn_interpolate.operation import reference, three_nn_interpolate

__all__ = ["reference", "three_nn_interpolate"]
