"""The architectures for point clouds, by the name that a configuration has for them.

Adding one means one file and one line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import nn

from dropfold.models.clouds.dgcnn import DGCNN
from dropfold.models.clouds.dgcnn_segmentation import DGCNNSegmentation
from dropfold.models.clouds.pointnet import PointNet
from dropfold.models.clouds.pointnet2 import PointNet2
from dropfold.models.clouds.pointnet2_segmentation import PointNet2Segmentation
from dropfold.models.clouds.pointnet_segmentation import PointNetSegmentation


class Network(NamedTuple):
    """An architecture: its name in print, and its networks.

    Both classes take `num_classes`, `in_channels`, `dropout`, `noise` and `sync_batch_norm`; the one for segmentation takes
    `categories` too. `options` are the keyword arguments that both take beside these, `classification_options` those of
    the network that classifies alone.
    """

    title: str
    classification: type[nn.Module]
    segmentation: type[nn.Module]
    options: tuple[str, ...] = ()
    classification_options: tuple[str, ...] = ()


NETWORKS: dict[str, Network] = {
    "dgcnn": Network("DGCNN", DGCNN, DGCNNSegmentation, ("k", "emb_dims", "graph_channels")),
    "pointnet": Network("PointNet", PointNet, PointNetSegmentation, (), ("input_transform", "feature_transform")),
    "pointnet2": Network("PointNet++", PointNet2, PointNet2Segmentation, ("grouping", "radius")),
}  # fmt: skip
if TYPE_CHECKING:
    NetworkName = str
else:  # the names themselves, for a command line that lists them
    NetworkName = Literal[tuple(NETWORKS)]
