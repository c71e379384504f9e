"""Networks to compress, with BatchNorms that have seen something, and inputs for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models import (
    DGCNN,
    DGCNNSegmentation,
    PointNet,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
)

Made = tuple[nn.Module, tuple[Any, ...]]
CATEGORY = torch.tensor([1, 3])


def used(network: nn.Module) -> nn.Module:
    """The network in evaluation, its BatchNorms with statistics, scales and shifts of their own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


def _points(make: Callable[[], nn.Module], channels: int, *more: Tensor) -> Callable[[], Made]:
    def made() -> Made:
        torch.manual_seed(0)
        return used(make()), (torch.rand(2, 48, channels), *more)

    return made


OURS: dict[str, Callable[[], Made]] = {
    "pointnet": _points(lambda: PointNet(10), 3),
    "vanilla": _points(lambda: PointNet(10, 6, input_transform=False, feature_transform=False), 6),
    "dgcnn": _points(lambda: DGCNN(10, k=5), 3),
    "ssg": _points(lambda: PointNet2(10), 3),
    "msg": _points(lambda: PointNet2(10, 6, grouping="msg"), 6),
    "pointnet-parts": _points(lambda: PointNetSegmentation(7, 3, categories=4), 3, CATEGORY),
    "pointnet-scenes": _points(lambda: PointNetSegmentation(7, 9), 9),
    "dgcnn-parts": _points(lambda: DGCNNSegmentation(7, 3, categories=4, k=5), 3, CATEGORY),
    "dgcnn-scenes": _points(lambda: DGCNNSegmentation(7, 9, k=5), 9),
    "msg-parts": _points(lambda: PointNet2Segmentation(7, 3, categories=4, grouping="msg"), 3, CATEGORY),
    "ssg-scenes": _points(lambda: PointNet2Segmentation(7, 9), 9),
}


class Block(nn.Module):
    """A residual block; its sum is made in place."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.down = None
        if stride > 1:
            self.down = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu_(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return torch.relu_(y)


class Residual(nn.Module):
    """torchvision's ResNet-18 in small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.layers = nn.Sequential(Block(8, 8), Block(8, 16, 2), Block(16, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


class Plain(nn.Module):
    """A VGG in small, with a depthwise convolution and a matrix that reads flattened pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(12 * 4, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class Edges(nn.Module):
    """antao97's way to write a DGCNN: modules with two names, [B, 2 C, N, k] made by hand, max and mean side by side."""

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        self.k = k
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(8), nn.BatchNorm2d(12), nn.BatchNorm1d(24)
        self.conv1 = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), self.bn1, nn.LeakyReLU(0.2))
        self.conv2 = nn.Sequential(nn.Conv2d(16, 12, 1, bias=False), self.bn2, nn.LeakyReLU(0.2))
        self.conv3 = nn.Sequential(nn.Conv1d(20, 24, 1, bias=False), self.bn3, nn.LeakyReLU(0.2))
        self.linear1, self.linear2 = nn.Linear(48, 10), nn.Linear(10, 5)

    def edges(self, x: Tensor) -> Tensor:
        """x [B, C, N] to [x_j - x_i ; x_i]."""
        idx = torch.cdist(x.mT, x.mT).topk(self.k, largest=False).indices
        near = x.gather(2, idx.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view(*x.shape, self.k)
        central = x[..., None].expand_as(near)
        return torch.cat([near - central, central], 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.conv1(self.edges(x)).amax(-1)
        x2 = self.conv2(self.edges(x1)).amax(-1)
        x = self.conv3(torch.cat([x1, x2], 1))
        x = torch.cat([x.amax(-1), x.mean(-1)], 1)
        return self.linear2(torch.relu(self.linear1(x)))


def _pictures(make: Callable[[], nn.Module], *shape: int) -> Callable[[], Made]:
    def made() -> Made:
        torch.manual_seed(0)
        return used(make()), (torch.rand(2, *shape),)

    return made


FOREIGN: dict[str, Callable[[], Made]] = {
    "residual": _pictures(Residual, 3, 12, 12),
    "plain": _pictures(Plain, 3, 8, 8),
    "edges": _pictures(Edges, 3, 32),
}
