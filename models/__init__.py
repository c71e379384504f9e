"""Networks and layers over `kernels`."""

from models.dgcnn import DGCNN
from models.layers import EdgeConv, LinearNormAct, LinearNormMax, LinearNormPool
from models.noise import DropCluster, DropFeat, DropPoint, needs_reestimation, reestimate_batch_norm
from models.pointnet import PointNet

__all__ = [
    "DGCNN",
    "DropCluster",
    "DropFeat",
    "DropPoint",
    "EdgeConv",
    "LinearNormAct",
    "LinearNormMax",
    "LinearNormPool",
    "PointNet",
    "needs_reestimation",
    "reestimate_batch_norm",
]
