"""Operations on point clouds and sequences: CPU and Triton, one file each."""

from kernels._noise import Noise
from kernels._norm import BatchNorm
from kernels._random import draw_seed
from kernels.drop_cluster import drop_cluster
from kernels.drop_feat import drop_feat
from kernels.drop_point import drop_point
from kernels.edge_conv import edge_conv
from kernels.knn import knn
from kernels.linear_norm_max import linear_norm_max
from kernels.norm_act import norm_act
from kernels.norm_pool import norm_pool

__all__ = [
    "BatchNorm",
    "Noise",
    "draw_seed",
    "drop_cluster",
    "drop_feat",
    "drop_point",
    "edge_conv",
    "knn",
    "linear_norm_max",
    "norm_act",
    "norm_pool",
]
