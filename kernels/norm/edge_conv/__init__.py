"""EdgeConv without edges: linear map of every edge, BatchNorm, activation and the max over neighbours, exactly."""

from dropfold.kernels.norm.edge_conv.operation import edge_conv, reference

__all__ = ["edge_conv", "reference"]
