"""Networks and layers over `kernels`."""

from models.dgcnn import DGCNN
from models.dgcnn_segmentation import DGCNNSegmentation
from models.layers import EdgeConv, LinearNormAct, LinearNormMax, LinearNormPool
from models.noise import DropCluster, DropFeat, DropPoint, needs_reestimation, reestimate_batch_norm
from models.pointnet import PointNet
from models.pointnet2 import PointNet2
from models.pointnet2_segmentation import PointNet2Segmentation
from models.pointnet_segmentation import PointNetSegmentation
from models.tensor_linear import TensorLinear
from models.tensor_presets import bt_lstm, fdht_lstm, ht_lstm, rnn_table, tr_lstm, tt_lstm
from models.tensor_rnn import TensorGRU, TensorLSTM
from models.video import VideoClassifier

__all__ = [
    "DGCNN",
    "DGCNNSegmentation",
    "DropCluster",
    "DropFeat",
    "DropPoint",
    "EdgeConv",
    "LinearNormAct",
    "LinearNormMax",
    "LinearNormPool",
    "PointNet",
    "PointNet2",
    "PointNet2Segmentation",
    "PointNetSegmentation",
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
