"""Networks and layers over `kernels`."""

from models.dgcnn import DGCNN
from models.layers import EdgeConv, LinearNormAct, LinearNormMax, LinearNormPool
from models.noise import DropCluster, DropFeat, DropPoint, needs_reestimation, reestimate_batch_norm
from models.pointnet import PointNet
from models.tensor_linear import TensorLinear
from models.tensor_presets import bt_lstm, fdht_lstm, ht_lstm, rnn_table, tr_lstm, tt_lstm
from models.tensor_rnn import TensorGRU, TensorLSTM
from models.video import VideoClassifier

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
    "TensorGRU",
    "TensorLSTM",
    "TensorLinear",
    "VideoClassifier",
    "bt_lstm",
    "fdht_lstm",
    "ht_lstm",
    "needs_reestimation",
    "reestimate_batch_norm",
    "rnn_table",
    "tr_lstm",
    "tt_lstm",
]
