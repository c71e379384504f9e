"""PointNet for segmentation (Qi et al. 2017, figures 2 and 9): each point's features beside those of its whole cloud.

    scenes  x [B, N, 9] -> input transform -> conv1 64 -> feature transform 64x64 -> conv2 128 -> conv3 1024 -> max
            [max ; 64 transformed features] -> head 512, 256, 128 -> classes
    parts   x [B, N, 3] -> input transform -> conv1 64 -> conv2 128 -> conv3 128 -> feature transform 128x128
            -> conv4 512 -> conv5 2048 -> max
            [max ; category ; conv1 .. conv5] -> head 256, 256, 128 -> parts

3,529,558 parameters for 13 classes of scenes and 8,342,395 for 50 parts in 16 categories, as
yanx27/Pointnet_Pointnet2_pytorch has them; as there, the layer before the max has no ReLU.

So conv5 reaches the head through its BatchNorm alone, an affine map: W [a W5 x + s] = (W a W5) x + W s. The fused head takes
conv4's output through the product of the weights, and no 2,048 features of a point are ever made; in the plain form it takes
conv5's output itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels.backend.gemm import gram, mm
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.norm.batch_norm.operation import sum_over_processes
from dropfold.models.clouds.inputs import check_points
from dropfold.models.clouds.pointnet import Regularized, TransformNet, transform
from dropfold.models.layers.linear_norm import LinearNormAct, LinearNormMax, add_to_points, one_hot
from dropfold.models.layers.noise import draw, place_noise
from dropfold.models.layers.wiring import Wiring, chain

LAYERS = {"scenes": ("conv1", "conv2", "pool"), "parts": ("conv1", "conv2", "conv3", "conv4", "pool")}


class PointNetSegmentation(Regularized):
    """PointNet with an output a point.

    Args:
        num_classes: outputs of a point.
        in_channels: 3, or more: the first three are coordinates and are transformed.
        categories: None for scenes; for parts, how many categories there are, the category being an input.
        dropout: before the last layer.
        noise: a Drop module for the recommended position, inside the max over points ("pool"), or a mapping of layer
            name (conv1, conv2, and for parts conv3, conv4: after the activation; pool) to module.
        sync_batch_norm: BatchNorm statistics over all processes.

    Shapes: x [B, N, in_channels], or rows [M, in_channels] with `batch` [M]; category int64 [B]; logits
    [B, N, num_classes] or [M, num_classes].
    """

    in_full_precision: ClassVar = {"conv5": "the head reads its matrix"}

    def __init__(
        self,
        num_classes: int = 13,
        in_channels: int = 9,
        categories: int | None = None,
        dropout: float = 0.0,
        noise: nn.Module | Mapping[str, nn.Module] | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        options: dict[str, Any] = {"bias": True, "sync": sync_batch_norm}
        self.categories = categories
        self.input_transform = TransformNet(in_channels, 3, sync_batch_norm)
        self.conv1 = LinearNormAct(in_channels, 64, coordinates=True, **options)
        self.conv2 = LinearNormAct(64, 128, **options)
        if categories is None:
            self.feature_transform = TransformNet(64, 64, sync_batch_norm)
            self.conv3: nn.Module = LinearNormMax(128, 1024, negative_slope=1.0, **options)
            widths = [1024 + 64, 512, 256, 128]
        else:
            self.conv3 = LinearNormAct(128, 128, **options)
            self.feature_transform = TransformNet(128, 128, sync_batch_norm)
            self.conv4 = LinearNormAct(128, 512, **options)
            self.conv5: LinearNormMax = LinearNormMax(512, 2048, negative_slope=1.0, **options)
            widths = [2048 + categories + 64 + 128 + 128 + 512 + 2048, 256, 256, 128]
        self.head1 = (LinearNormAct if categories is None else BesideAffine)(*widths[:2], **options)
        self.head2 = LinearNormAct(*widths[1:3], **options)
        self.head3 = LinearNormAct(*widths[2:], dropout=dropout, **options)
        self.classes = nn.Linear(widths[3], num_classes)
        layers = LAYERS["scenes" if categories is None else "parts"]
        self.noise = place_noise(noise, layers, "pool", "PointNetSegmentation")

    def forward(
        self,
        x: Tensor,
        category: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        check_points(self, x, self.in_channels, batch)
        pos, of_category = x[..., :3], one_hot(category, self.categories, x, batch, batch_size)
        clouds: dict[str, Any] = {"batch": batch, "batch_size": batch_size}

        def layer(name: str, x: Tensor) -> Tensor:
            return self.get_submodule(name)(x, noise=draw(self.noise, name, pos, x, batch), **clouds)

        moved = transform(pos, self.input_transform(x, **clouds), batch)
        x1 = layer("conv1", torch.cat([moved, x[..., 3:]], -1) if x.shape[-1] > 3 else moved)
        if of_category is None:
            local = self._transformed(x1, clouds)
            x = layer("conv2", local)
            top = self.conv3(x, noise=draw(self.noise, "pool", pos, x, batch), **clouds)
            x = self.head1(local, top, **clouds)
        else:
            x2 = layer("conv2", x1)
            x3 = layer("conv3", x2)
            x4 = layer("conv4", self._transformed(x3, clouds))
            noise, features = draw(self.noise, "pool", pos, x4, batch), [x1, x2, x3, x4]
            affine: tuple[Tensor, ...] = ()
            if self.conv5.fused and self.head1.fused:
                affine = affine_norm(self.conv5, x4)  # before conv5 moves the running statistics
                top = self.conv5(x4, noise=noise, **clouds)
            else:
                top, x5 = self.conv5.pooled(x4, noise=noise, **clouds)
                features.append(x5)
            local, g = torch.cat(features, -1), torch.cat([top, of_category.to(top.dtype)], -1)
            x = self.head1(local, g, *affine, **clouds)
        return self.classes(self.head3(self.head2(x, **clouds), **clouds))

    def wiring(self) -> Wiring:
        """Whose channels each matrix reads (see `dropfold.models.layers.wiring`)."""
        columns = TransformNet.columns("input_transform", [self.in_channels])
        points = ["conv1", "conv2", "conv3"]
        read: list[str | int]
        if self.categories is None:
            moved, read = "conv1", ["conv3", "conv1"]
        else:
            moved, points = "conv3", [*points, "conv4", "conv5"]
            read = ["conv5", self.categories, *points]
        columns |= chain([self.in_channels], *points) | chain(read, "head1", "head2", "head3", "classes")
        columns |= TransformNet.columns("feature_transform", [moved])
        return Wiring(columns, {"feature_transform.fc3": moved})

    def _transformed(self, x: Tensor, clouds: dict[str, Any]) -> Tensor:
        return transform(x, self._remember(self.feature_transform(x, **clouds)), clouds["batch"])


class BesideAffine(LinearNormAct):
    """LinearNormAct of [g ; x ; scale * (V x') + shift], x' the last channels of x: through the product of the weights.

    Without V, scale and shift, and in its plain form, it is LinearNormAct of [g ; x].
    """

    def operation(self, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        if len(rest) == 2:  # x' is one of the features of x
            return super().operation(x, *rest, **options)
        g, between, scale, shift, norm = rest
        sizes = [g.shape[-1], x.shape[-1], len(between)]
        weight, bias = self.matrix()
        of_cloud, of_point, after = weight.split(sizes, 1)
        through = kernels.linear(after * scale.to(after.dtype), between.T)
        of_point = of_point + nn.functional.pad(through, (sizes[1] - through.shape[1], 0))
        shifted = after @ shift.to(after.dtype)
        g = kernels.linear(g, of_cloud, shifted if bias is None else bias + shifted)
        return kernels.norm_act(
            add_to_points(kernels.linear(x, of_point), g, options["batch"]), norm, **options
        )


def affine_norm(layer: LinearNormMax, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(W, scale, shift)` with BatchNorm(W x + b) = scale * (W x) + shift [C_out], and their gradients; in training the
    statistics are those of the rows of x [..., C_in], from its covariance as in `dropfold.kernels.norm.linear_norm_max`."""
    if layer.negative_slope != 1:
        raise ValueError(
            "the head takes conv5 through the product of the weights, so conv5 has no activation; run the network in its "
            "plain form: `with unfused(network): ...`."
        )
    norm, (weight, bias) = layer.norm, layer.matrix()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.autocast(x.device.type, enabled=False):
        if norm.training:
            mean_x, covariance = _Covariance.apply(x.flatten(0, -2).to(weight.dtype), layer.sync)
            mean, var = weight @ mean_x, ((weight @ covariance) * weight).sum(1)
        else:
            mean = norm.running_mean if bias is None else norm.running_mean - bias
            var = norm.running_var
        scale = norm.weight * torch.rsqrt(var.clamp(min=0) + norm.eps)
        return weight, scale, norm.bias - scale * mean


class _Covariance(torch.autograd.Function):
    """Mean [C] and biased covariance [C, C] of the rows of x [M, C] of all processes.

    The centred rows add up to zero, so the covariance has no gradient through the mean:
    dx_m = dmean / M + (x_m - mean) (dcov + dcov^T) / M, both gradients being sums over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sync: bool) -> tuple[Tensor, Tensor]:
        sums = sum_over_processes(torch.cat([x.sum(0), x.new_full((1,), float(len(x)))]), sync)
        mean, ctx.sync = sums[:-1] / sums[-1], sync
        centred = x - mean
        ctx.save_for_backward(x, mean, sums[-1])
        return mean, sum_over_processes(gram(centred, centred), sync) / sums[-1]

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dmean: Tensor, dcovariance: Tensor) -> tuple[Tensor, None]:
        x, mean, count = ctx.saved_tensors
        both = sum_over_processes(torch.cat([dmean[None], dcovariance + dcovariance.T]), ctx.sync) / count
        return mm(x, both[1:]).add_(both[0] - mean @ both[1:]), None
