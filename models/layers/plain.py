"""The parts of the plain forms: calls of linear maps and BatchNorm, activation, noise, dropout, nearest neighbours.

The modules have no parameters, so they add nothing to a state dict. See `dropfold.models.layers.unfused`; the pools are in
`dropfold.models.layers.pools`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels import Noise, draw_seed
from dropfold.kernels.backend.gemm import COORDINATES
from dropfold.kernels.noise.draw.operation import as_p
from dropfold.kernels.noise.drop import reference as apply_noise
from dropfold.kernels.norm.batch_norm.operation import check_rows, several_processes
from dropfold.kernels.points import knn
from dropfold.kernels.points.clouds import to_rows


def rounding_unless(coordinates: bool, x: Tensor) -> AbstractContextManager[Any]:
    """Autocast as it is for features x, and off for `coordinates`, which it must not round."""
    if coordinates and not x.is_meta and torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def call_linear(
    module: nn.Module, x: Tensor, channels: int | None = None, coordinates: bool = False
) -> Tensor:
    """`module(x)`. Autocast is off for `coordinates`, and where x, or what x was made of, has few `channels`."""
    with rounding_unless(coordinates or (channels or x.shape[-1]) <= COORDINATES, x):
        return module(x)


def call_norm(norm: nn.Module, y: Tensor, sync: bool) -> Tensor:
    """The BatchNorm of y [..., C], called on its rows.

    Raises:
        ValueError: statistics over several processes are asked for, or there is a single row to train on.
    """
    rows = y.reshape(-1, y.shape[-1])
    if norm.training and isinstance(norm, nn.BatchNorm1d):
        if several_processes(sync):
            raise ValueError(
                "the plain form takes BatchNorm's statistics over this process alone, and sync asks for those of "
                f"{torch.distributed.get_world_size()}: train fused, or run `unfused` in evaluation or in one process, or "
                "replace the norms by torch.nn.SyncBatchNorm.convert_sync_batchnorm (on GPUs)."
            )
        check_rows(len(rows))
    return norm(rows).view(y.shape)


def activation(negative_slope: float) -> nn.Module:
    """LeakyReLU of a slope; at 0 it is ReLU, and at 1 the identity."""
    if negative_slope == 0:
        return nn.ReLU()
    return nn.Identity() if negative_slope == 1 else nn.LeakyReLU(negative_slope)


def slope_of(module: nn.Module) -> float:
    """The slope below 0 of an activation that the fused form has.

    Raises:
        ValueError: it is none of ReLU, LeakyReLU and Identity.
    """
    if isinstance(module, nn.LeakyReLU):
        return module.negative_slope
    if isinstance(module, nn.ReLU | nn.Identity):
        return 0.0 if isinstance(module, nn.ReLU) else 1.0
    raise ValueError(
        f"a fused layer's activation is ReLU, LeakyReLU or Identity; got {type(module).__name__}. Run the layer in its "
        "plain form: `with unfused(network): ...`."
    )


class ApplyNoise(nn.Module):
    """x times the scaled mask of one draw of noise."""

    def forward(
        self, x: Tensor, noise: Noise | None, batch: Tensor | None = None, batch_size: int | None = None
    ) -> Tensor:
        return apply_noise(x, noise, batch=batch, batch_size=batch_size)


class Dropout(nn.Dropout):
    """DropFeat of every feature: the fused form drops the same ones."""

    def draw(self, device: torch.device) -> Noise | None:
        """One draw, None where nothing can be dropped."""
        if not (self.training and self.p):
            return None
        return Noise("feat", as_p(self.p, device), draw_seed(device))

    def forward(self, x: Tensor) -> Tensor:
        return apply_noise(x.reshape(-1, x.shape[-1]), self.draw(x.device)).view(x.shape)


def neighbours(
    x: Tensor, k: int, fused: bool, batch: Tensor | None = None, batch_size: int | None = None
) -> Tensor:
    """`dropfold.kernels.knn`, or its reference, which torch.export and ONNX take; both give the same lists.

    Raises:
        ValueError: k is below 1 or too large for a cloud.
    """
    if fused:
        return kernels.knn(x, k, batch=batch, batch_size=batch_size)
    _, ptr = to_rows(x, batch, batch_size)
    smallest = x.shape[1] if x.dim() == 3 else int(ptr.diff().min())
    if not 1 <= k <= smallest:
        raise ValueError(
            f"k must be at least 1 and at most the points of the smallest cloud; got k = {k} and a cloud of {smallest} "
            "points."
        )
    return knn.reference(x, k, batch=batch, batch_size=batch_size)
