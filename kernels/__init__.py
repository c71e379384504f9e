"""Operations on point clouds and sequences: CPU and Triton, one file each."""

from kernels._gemm import linear
from kernels._groups import Groups
from kernels._noise import Noise
from kernels._norm import BatchNorm
from kernels._random import draw_seed
from kernels.ball_query import ball_query
from kernels.drop_cluster import drop_cluster
from kernels.drop_feat import drop_feat
from kernels.drop_point import drop_point
from kernels.edge_conv import edge_conv
from kernels.farthest_point_sample import farthest_point_sample
from kernels.group_mlp_max import group_mlp_max
from kernels.gru_sequence import gru_sequence
from kernels.knn import knn
from kernels.kron_linear import kron_linear
from kernels.linear_norm_max import linear_norm_max
from kernels.lstm_sequence import lstm_sequence
from kernels.norm_act import norm_act
from kernels.norm_pool import linear_norm_pool, norm_pool
from kernels.three_nn_interpolate import three_nn_interpolate

__all__ = [
    "BatchNorm",
    "Groups",
    "Noise",
    "ball_query",
    "draw_seed",
    "drop_cluster",
    "drop_feat",
    "drop_point",
    "edge_conv",
    "farthest_point_sample",
    "group_mlp_max",
    "gru_sequence",
    "knn",
    "kron_linear",
    "linear",
    "linear_norm_max",
    "linear_norm_pool",
    "lstm_sequence",
    "norm_act",
    "norm_pool",
    "three_nn_interpolate",
]
