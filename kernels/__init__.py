"""Operations on point clouds and sequences, each in a CPU and a Triton implementation, with a reference in plain torch."""

from dropfold.kernels.backend.gemm import linear
from dropfold.kernels.group_mlp_max import group_mlp_max
from dropfold.kernels.noise.draw import Noise
from dropfold.kernels.noise.drop_cluster import drop_cluster
from dropfold.kernels.noise.drop_feat import drop_feat
from dropfold.kernels.noise.drop_point import drop_point
from dropfold.kernels.noise.philox import draw_seed
from dropfold.kernels.norm.batch_norm.operation import BatchNorm
from dropfold.kernels.norm.edge_conv import edge_conv
from dropfold.kernels.norm.linear_norm_max import linear_norm_max
from dropfold.kernels.norm.norm_act import linear_norm_act, norm_act
from dropfold.kernels.norm.norm_pool import linear_norm_pool, norm_pool
from dropfold.kernels.points.ball_query import ball_query
from dropfold.kernels.points.farthest_point_sample import farthest_point_sample
from dropfold.kernels.points.groups import Groups
from dropfold.kernels.points.knn import knn
from dropfold.kernels.points.three_nn_interpolate import three_nn_interpolate
from dropfold.kernels.recurrent.gru_sequence import gru_sequence
from dropfold.kernels.recurrent.kron_linear import kron_linear
from dropfold.kernels.recurrent.lstm_sequence import lstm_sequence

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
    "linear_norm_act",
    "linear_norm_max",
    "linear_norm_pool",
    "lstm_sequence",
    "norm_act",
    "norm_pool",
    "three_nn_interpolate",
]
