"""k nearest neighbours within each cloud, in coordinates or in feature space."""

from dropfold.kernels.points.knn.operation import knn, reference

__all__ = ["knn", "reference"]
