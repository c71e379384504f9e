"""The parts of the plain forms: activation, noise, dropout and pools as modules, nearest neighbours in torch.

The modules have no parameters, so they add nothing to a state dict. See `dropfold.models.layers.unfused`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels import Noise, draw_seed
from dropfold.kernels.backend.gemm import COORDINATES
from dropfold.kernels.noise.draw import keep_mask
from dropfold.kernels.noise.draw.operation import as_p
from dropfold.kernels.noise.drop import reference as apply_noise
from dropfold.kernels.norm.batch_norm.operation import check_rows, several_processes
from dropfold.kernels.points.clouds import local_idx, to_rows

EPS = 1e-8  # added to squared distances before they divide, as in `three_nn_interpolate`
DIRECT = 8  # channels up to which distances are sums of squared differences, as in `knn`


# --- linear maps and BatchNorm ---------------------------------------------------------------------------------------


def call_linear(module: nn.Module, x: Tensor, channels: int | None = None, **options: Any) -> Tensor:
    """`module(x)`. Autocast rounds no coordinates: it is off where x, or what x was made of, has few `channels`."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and (channels or x.shape[-1]) <= COORDINATES:
        with torch.autocast(device, enabled=False):
            return module(x, **options)
    return module(x, **options)


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


# --- activation ------------------------------------------------------------------------------------------------------


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


# --- noise -----------------------------------------------------------------------------------------------------------


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


# --- pools -----------------------------------------------------------------------------------------------------------


class MaxPool(nn.Module):
    """Max over dimension 1 of z [B, N, C], over the entries that a mask (bool, like z) keeps; 0 where it keeps none."""

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked_max(z, mask)[0]


class MaxMeanPool(nn.Module):
    """Max and mean over dimension 1 of z [B, N, C], over the entries that a mask keeps; 0 where it keeps none."""

    def forward(self, z: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        top = masked_max(z, mask)[0]
        if mask is None:
            return top, z.mean(1)
        mask = mask.expand_as(z)
        return top, torch.where(mask, z, 0).sum(1) / mask.sum(1).clamp(min=1)


def masked_max(z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`(max, argmax)` [B, C] over dimension 1; of equal entries the first. Where nothing is kept they are 0 and -1."""
    if mask is None:
        top, argmax = z.max(1)
        return top, argmax
    mask = mask.expand_as(z)
    top, argmax = torch.where(mask, z, -torch.inf).max(1)
    some = mask.any(1)
    return torch.where(some, top, 0), torch.where(some, argmax, -1)


class Clouds:
    """Rows [M, C] set side by side as [B, N, C], N being the points of the largest cloud, and the masks for them."""

    def __init__(self, x: Tensor, batch: Tensor | None, batch_size: int | None) -> None:
        """The clouds are those of x, dense [B, N, C] or rows [M, C] with `batch` [M]."""
        rows, self.ptr = to_rows(x, batch, batch_size)
        self.like, self.rows = x, len(rows)
        self.shape = x.shape[:2] if x.dim() == 3 else (1, len(rows))
        self.idx: Tensor | None = None
        self.inside: Tensor | None = None
        if batch is not None:
            self.idx, self.inside = padded_rows(self.ptr)

    def stack(self, values: Tensor) -> Tensor:
        """Of values [M, C] of the points: [B, N, C]."""
        return values.view(*self.shape, -1) if self.idx is None else values[self.idx]

    def mask(self, noise: Noise | None, channels: int) -> Tensor | None:
        """Which of the stacked values exist and are kept: bool [B, N, C or 1]; None where all are."""
        if noise is None:
            return self.inside
        kept = self.stack(keep_mask(noise, self.ptr, self.rows, channels))
        return kept if self.inside is None else kept & self.inside

    def points(self, argmax: Tensor) -> Tensor:
        """The point numbers of places [B, C] in the stacked values: within the cloud for dense clouds, else row numbers."""
        rows = torch.where(argmax < 0, -1, argmax + self.ptr[:-1, None])
        return local_idx(rows, self.ptr, self.like)


def padded_rows(ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [B, N] of B runs of rows, N being the longest, and which of them exist, bool [B, N, 1]."""
    sizes = ptr[1:] - ptr[:-1]
    place = torch.arange(int(sizes.max()) if len(sizes) else 0, device=ptr.device)
    inside = place < sizes[:, None]
    return torch.where(inside, ptr[:-1, None] + place, 0), inside[..., None]


# --- nearest neighbours ----------------------------------------------------------------------------------------------


def neighbours(
    x: Tensor, k: int, fused: bool, batch: Tensor | None = None, batch_size: int | None = None
) -> Tensor:
    """`kernels.knn`, or its plain form in torch, which torch.export and ONNX take; both give the same lists."""
    if fused:
        return kernels.knn(x, k, batch=batch, batch_size=batch_size)
    if x.dim() == 3 and 1 <= k <= x.shape[1]:
        return plain_knn(x, k)
    rows, ptr = to_rows(x, batch, batch_size)
    smallest = int((ptr[1:] - ptr[:-1]).min())
    if not 1 <= k <= smallest or x.dim() == 3:
        raise ValueError(
            f"k must be at least 1 and at most the points of the smallest cloud; got k = {k} and a cloud of {smallest} "
            "points."
        )
    clouds = rows.split((ptr[1:] - ptr[:-1]).tolist())
    return torch.cat([plain_knn(cloud[None], k)[0] + start for cloud, start in zip(clouds, ptr)])


@torch.no_grad()
def plain_knn(x: Tensor, k: int) -> Tensor:
    """int64 [B, N, k]: the nearest points of each point of dense x [B, N, C], itself included, nearest first.

    At equal distances the smaller index wins. The formula is that of `dropfold.kernels.points.knn`.
    """
    x = x if x.dtype == torch.float64 else x.float()
    if x.shape[2] <= DIRECT:
        distances = squared_distances(x, x)
    else:
        x = x - x.mean(1, keepdim=True)
        squares = x.square().sum(2)
        distances = (squares[:, None] + squares[:, :, None] - 2 * (x @ x.mT)).clamp(min=0)
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        distances = distances.masked_fill(own, 0)
    return smallest(distances, k)


def smallest(distances: Tensor, k: int) -> Tensor:
    """Places [B, N, k] of the k smallest of distances [B, N, M], ascending; of equal ones the first. Overwrites distances.

    torch.argmin takes the first of equal values, which torch.topk does not promise; ONNX has no stable sort.
    """
    found = []
    for _ in range(k):
        found.append(distances.argmin(2, keepdim=True))
        distances.scatter_(2, found[-1], torch.inf)
    return torch.cat(found, 2)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[B, N, M] between x [B, N, C] and y [B, M, C], channel by channel."""
    differences = (x[:, :, None, c] - y[:, None, :, c] for c in range(x.shape[2]))
    return sum((d * d for d in differences), x.new_zeros(()))


def plain_interpolate(features: Tensor, pos: Tensor, query: Tensor, k: int = 3) -> Tensor:
    """Features [B, S, C] at pos [B, S, 3], carried to query [B, N, 3]: the mean of the k nearest, weighted with the inverse
    squared distance. No gradient goes to positions, as in `dropfold.kernels.points.three_nn_interpolate`."""
    with torch.no_grad():
        wide = torch.promote_types(torch.promote_types(pos.dtype, query.dtype), torch.float32)
        distances = squared_distances(query.to(wide), pos.to(wide))
        idx = smallest(distances.clone(), min(k, pos.shape[1]))
        weight = 1 / (distances.gather(2, idx) + EPS)
        weight = (weight / weight.sum(2, keepdim=True)).to(features.dtype)
    cloud = torch.arange(len(features), device=features.device)[:, None, None]
    return (features[cloud, idx] * weight[..., None]).sum(2)
