"""Networks and layers over `kernels`."""

from dropfold.models.clouds.dgcnn import DGCNN
from dropfold.models.clouds.dgcnn_segmentation import DGCNNSegmentation
from dropfold.models.clouds.networks import NETWORKS, Network
from dropfold.models.clouds.pointnet import PointNet
from dropfold.models.clouds.pointnet2 import PointNet2
from dropfold.models.clouds.pointnet2_segmentation import PointNet2Segmentation
from dropfold.models.clouds.pointnet_segmentation import PointNetSegmentation
from dropfold.models.images.cells import CellNetwork
from dropfold.models.images.networks import ImageClassifier, image_network
from dropfold.models.images.resnet import ResNet
from dropfold.models.images.vgg import VGG16
from dropfold.models.layers.linear_norm import EdgeConv, LinearNormAct, LinearNormMax, LinearNormPool
from dropfold.models.layers.noise import (
    DropCluster,
    DropFeat,
    DropPoint,
    needs_reestimation,
    reestimate_batch_norm,
)
from dropfold.models.layers.precision import LowPrecision, lower_precision
from dropfold.models.layers.tensor_linear import TensorLinear
from dropfold.models.layers.unfused import unfused
from dropfold.models.recurrent.presets import bt_lstm, fdht_lstm, ht_lstm, rnn_table, tr_lstm, tt_lstm
from dropfold.models.recurrent.tensor_rnn import TensorGRU, TensorLSTM
from dropfold.models.recurrent.video_classifier import VideoClassifier

__all__ = [
    "DGCNN",
    "NETWORKS",
    "VGG16",
    "CellNetwork",
    "DGCNNSegmentation",
    "DropCluster",
    "DropFeat",
    "DropPoint",
    "EdgeConv",
    "ImageClassifier",
    "LinearNormAct",
    "LinearNormMax",
    "LinearNormPool",
    "LowPrecision",
    "Network",
    "PointNet",
    "PointNet2",
    "PointNet2Segmentation",
    "PointNetSegmentation",
    "ResNet",
    "TensorGRU",
    "TensorLSTM",
    "TensorLinear",
    "VideoClassifier",
    "bt_lstm",
    "fdht_lstm",
    "ht_lstm",
    "image_network",
    "lower_precision",
    "needs_reestimation",
    "reestimate_batch_norm",
    "rnn_table",
    "tr_lstm",
    "tt_lstm",
    "unfused",
]
