"""PointNet for classification (Qi et al. 2017, figure 2).

    x [B, N, 3] -> input transform 3x3 -> conv1 64 -> feature transform 64x64 -> conv2 128 -> conv3 1024 -> max
                -> fc1 512 -> fc2 256 -> fc3 classes

3,471,473 parameters for 40 classes and 3 channels, as yanx27/Pointnet_Pointnet2_pytorch has it; as there, conv3 has no
ReLU before the max.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.kernels.backend.launch import accumulator
from dropfold.models.clouds.inputs import check_points
from dropfold.models.layers.linear_norm import LinearNormAct, LinearNormMax
from dropfold.models.layers.noise import draw, place_noise
from dropfold.models.layers.plain import rounding_unless
from dropfold.models.layers.wiring import Sources, Wiring, chain

LAYERS = ("conv1", "conv2", "pool")


class TransformNet(nn.Module):
    """T-Net: a [B, k, k] matrix from a cloud, the identity plus what three fully connected layers add."""

    def __init__(self, in_channels: int, k: int, sync: bool = False) -> None:
        super().__init__()
        self.k = k
        self.conv1 = LinearNormAct(in_channels, 64, bias=True, sync=sync, coordinates=k <= 3)
        self.conv2 = LinearNormAct(64, 128, bias=True, sync=sync)
        self.conv3 = LinearNormMax(128, 1024, bias=True, sync=sync)
        self.fc1 = LinearNormAct(1024, 512, bias=True, sync=sync)
        self.fc2 = LinearNormAct(512, 256, bias=True, sync=sync)
        self.fc3 = nn.Linear(256, k * k)

    @property
    def in_full_precision(self) -> dict[str, str]:
        """Layers that no precision may round, and why (`dropfold.models.layers.precision`)."""
        return {"fc3": "its matrix moves coordinates"} if self.k <= 3 else {}

    def forward(self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        x = self.conv2(self.conv1(x))
        x = self.conv3(x, batch=batch, batch_size=batch_size)
        x = last_layer(self.fc3, self.fc2(self.fc1(x)), coordinates=self.k <= 3)
        return x.view(-1, self.k, self.k) + torch.eye(self.k, dtype=x.dtype, device=x.device)

    def fit_sizes(self) -> None:
        """Take k from the last layer, whose size was changed (`dropfold.models.layers.sizes`)."""
        self.k = math.isqrt(self.fc3.out_features)

    @staticmethod
    def columns(name: str, sources: Sources) -> dict[str, Sources]:
        """What its matrices read, under its `name` in a network (see `dropfold.models.layers.wiring`)."""
        return chain(
            sources, *(f"{name}.{layer}" for layer in ("conv1", "conv2", "conv3", "fc1", "fc2", "fc3"))
        )


def last_layer(linear: nn.Module, x: Tensor, coordinates: bool) -> Tensor:
    """The last layer of a T-Net; a matrix that moves `coordinates` is not rounded under autocast."""
    exact = coordinates and torch.is_autocast_enabled(x.device.type)
    with rounding_unless(exact, x):
        return linear(x.to(next(linear.parameters()).dtype) if exact else x)


class Regularized(nn.Module):
    """A network whose loss draws its feature transform to the orthogonal matrices."""

    _transform: Tensor | None = None

    def _remember(self, matrices: Tensor) -> Tensor:
        """The feature transforms, kept for `regularization`; an exported graph has no attributes to keep them in."""
        if not torch.compiler.is_exporting():
            self._transform = matrices
        return matrices

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_transform": None}  # the last forward's graph is no part of a copy

    def regularization(self) -> Tensor:
        """mean over clouds of |I - A A^T|_F for the last forward's feature transforms A (Qi et al. 2017, equation 2; their
        norm is squared, the peers' is not, and this is the peers'). The transforms are kept until the next forward."""
        if self._transform is None:
            return torch.zeros(())
        a = self._transform.to(accumulator(self._transform.dtype))
        one = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        with rounding_unless(True, a):  # near the orthogonal little more than rounding would be left
            return torch.linalg.matrix_norm(one - a @ a.mT).mean()


class PointNet(Regularized):
    """PointNet; without its transforms it is the same paper's vanilla PointNet (table 5).

    Args:
        num_classes: outputs.
        in_channels: 3, or more: the first three are coordinates and are transformed.
        input_transform: with the 3 x 3 transform of the coordinates.
        feature_transform: with the 64 x 64 transform and its regulariser.
        dropout: before the last layer.
        noise: a Drop module for the recommended position, inside the max over points ("pool"), or a mapping of
            layer name (conv1, conv2: after the activation; pool) to module.
        sync_batch_norm: BatchNorm statistics over all processes.

    Shapes: x [B, N, in_channels], or rows [M, in_channels] with `batch` [M]; logits [B, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 40,
        in_channels: int = 3,
        input_transform: bool = True,
        feature_transform: bool = True,
        dropout: float = 0.4,
        noise: nn.Module | Mapping[str, nn.Module] | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        sync = sync_batch_norm
        self.input_transform = TransformNet(in_channels, 3, sync) if input_transform else None
        self.conv1 = LinearNormAct(in_channels, 64, bias=True, sync=sync, coordinates=True)
        self.feature_transform = TransformNet(64, 64, sync) if feature_transform else None
        self.conv2 = LinearNormAct(64, 128, bias=True, sync=sync)
        self.conv3 = LinearNormMax(128, 1024, bias=True, negative_slope=1.0, sync=sync)
        self.fc1 = LinearNormAct(1024, 512, bias=True, sync=sync)
        self.fc2 = LinearNormAct(512, 256, bias=True, sync=sync, dropout=dropout)
        self.fc3 = nn.Linear(256, num_classes)
        self.noise = place_noise(noise, LAYERS, "pool", "PointNet")

    def forward(self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        check_points(self, x, self.in_channels, batch)
        clouds: dict[str, Any] = {"batch": batch, "batch_size": batch_size}
        pos, x = x[..., :3], self._features(x, clouds)
        x = self.conv3(x, noise=draw(self.noise, "pool", pos, x, batch), **clouds)
        return self.fc3(self.fc2(self.fc1(x)))

    def critical_points(
        self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None
    ) -> Tensor:
        """The points that a cloud's feature is made of: for each of its 1,024 channels the point with the largest value,
        int64 [B, 1024], counted within the cloud for dense x and a row number otherwise (Qi et al. 2017, section 4.3)."""
        check_points(self, x, self.in_channels, batch)
        clouds: dict[str, Any] = {"batch": batch, "batch_size": batch_size}
        return self.conv3(self._features(x, clouds), return_argmax=True, **clouds)[1]

    def wiring(self) -> Wiring:
        """Whose channels each matrix reads."""
        columns = chain([self.in_channels], "conv1", "conv2", "conv3", "fc1", "fc2", "fc3")
        squares: dict[str, str] = {}
        if self.input_transform is not None:
            columns |= TransformNet.columns("input_transform", [self.in_channels])
        if self.feature_transform is not None:
            columns |= TransformNet.columns("feature_transform", ["conv1"])
            squares["feature_transform.fc3"] = "conv1"
        return Wiring(columns, squares)

    def _features(self, x: Tensor, clouds: dict[str, Any]) -> Tensor:
        """What conv3 takes: 128 features of each point."""
        pos, batch = x[..., :3], clouds["batch"]
        if self.input_transform is not None:
            moved = transform(pos, self.input_transform(x, **clouds), batch)
            x = torch.cat([moved, x[..., 3:]], -1) if x.shape[-1] > 3 else moved
        x = self.conv1(x, noise=draw(self.noise, "conv1", pos, x, batch), **clouds)
        if self.feature_transform is not None:
            x = transform(x, self._remember(self.feature_transform(x, **clouds)), batch)
        return self.conv2(x, noise=draw(self.noise, "conv2", pos, x, batch), **clouds)


def transform(x: Tensor, matrices: Tensor, batch: Tensor | None) -> Tensor:
    """Each cloud's points times its matrix: [B, N, k] or rows [M, k] with `batch`, and [B, k, k]. Coordinates (k = 3) stay
    in their type under autocast."""
    device, matrices = x.device.type, matrices.to(x.dtype)
    if x.shape[-1] <= 3 and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return transform(x, matrices, batch)
    if batch is None:
        return x @ (matrices if x.dim() == 3 else matrices[0])
    clouds = x.split(torch.bincount(batch, minlength=matrices.shape[0]).tolist())
    return torch.cat([cloud @ matrix for cloud, matrix in zip(clouds, matrices, strict=True)])
