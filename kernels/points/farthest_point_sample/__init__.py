"""Farthest point sampling: m points of each cloud, each the farthest from those before it."""

from dropfold.kernels.points.farthest_point_sample.operation import farthest_point_sample, reference

__all__ = ["farthest_point_sample", "reference"]
