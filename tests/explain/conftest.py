"""Networks with random weights and statistics, in float64, and clouds for them."""

import pytest
import torch
from torch import nn

from dropfold import models
from dropfold.models.formats import FormatSpec

X = {"dtype": torch.float64}


def randomized(network):
    """Random BatchNorm statistics and biases: an account that forgets any of them does not add up."""
    generator = torch.Generator().manual_seed(1)

    def draw(t, low, high):
        t.copy_(low + (high - low) * torch.rand(t.shape, generator=generator))

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for name, low, high in (
                    ("running_mean", -1, 1),
                    ("running_var", 0.5, 2),
                    ("weight", 0.5, 1.5),
                ):
                    draw(getattr(module, name), low, high)
        for name, p in network.named_parameters():
            if name.endswith("bias"):
                draw(p, -0.5, 0.5)
    return network.double().eval()


CLOUDS = {
    "PointNet": lambda: models.PointNet(5),
    "PointNet2": lambda: models.PointNet2(5),
    "PointNet2 MSG": lambda: models.PointNet2(5, grouping="msg"),
    "DGCNN": lambda: models.DGCNN(5, k=6, emb_dims=64),
    "PointNetSegmentation": lambda: models.PointNetSegmentation(5, 3),
    "PointNet2Segmentation": lambda: models.PointNet2Segmentation(5, 3),
    "DGCNNSegmentation": lambda: models.DGCNNSegmentation(5, 3, k=6, emb_dims=64),
}
PARTS = {
    "PointNet parts": lambda: models.PointNetSegmentation(5, 3, categories=4),
    "PointNet2 parts": lambda: models.PointNet2Segmentation(5, 3, categories=4),
    "PointNet2 MSG parts": lambda: models.PointNet2Segmentation(5, 3, categories=4, grouping="msg"),
    "DGCNN parts": lambda: models.DGCNNSegmentation(5, 3, categories=4, k=6, emb_dims=64),
}
MEGA = FormatSpec("ht", (4, 5, 4, 2), (2, 2, 2, 1), (2,))
FORMATS = {
    "dense": {},
    "tt": {"ih": FormatSpec("tt", (4, 4, 4), (2, 2, 2), (2,)), "hh": FormatSpec("tt", (2, 2, 2), (2, 2, 2), (2,))},
    "tr": {"ih": FormatSpec("tr", (4, 4, 4), (2, 2, 2), (2,))},
    "bt": {"ih": FormatSpec("bt", (4, 4, 4), (2, 2, 2), (2,), blocks=2)},
    "cp": {"ih": FormatSpec("cp", (4, 4, 4), (2, 2, 2), (2,))},
    "tucker": {"ih": FormatSpec("tucker", (4, 4, 4), (2, 2, 2), (2,))},
    "ht": {"ih": FormatSpec("ht", (4, 4, 4), (2, 2, 2), (2,))},
    "fdht": {"mega": MEGA},
}  # fmt: skip


@pytest.fixture
def clouds():
    return torch.rand(3, 48, 3, generator=torch.Generator().manual_seed(0), **X) * 2 - 1


def small_pointnet():
    return randomized(models.PointNet(5, input_transform=False, feature_transform=False))
