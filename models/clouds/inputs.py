"""What the networks over points are given, checked at their door: shapes, types and devices, each refused in a sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropfold.kernels.backend.describe import describe


def check_points(network: nn.Module, x: Tensor, in_channels: int, batch: Tensor | None) -> None:
    """Refuse what `network` cannot take as points x of `in_channels` channels, in clouds or in rows with `batch`.

    Raises:
        ValueError: x is no tensor [B, N, C] or [M, C] of floating point numbers, in the type and on the device of the
            weights; there are no points; or batch does not go with it.
    """
    name, weight = type(network).__name__, next(network.parameters())
    expected = f"{name} takes x [B, N, {in_channels}], or rows [M, {in_channels}] with batch [M]"
    if not isinstance(x, Tensor):
        raise ValueError(f"{expected}; got a {type(x).__name__}, make it a tensor.")
    if x.dim() not in (2, 3) or x.shape[-1] != in_channels:
        hint = ""
        if x.dim() == 3 and x.shape[1] == in_channels:
            hint = " Its channels come before its points: give x.transpose(1, 2)."
        raise ValueError(f"{expected}; got x {describe(x)}.{hint}")
    if not x.is_floating_point():
        raise ValueError(f"{expected}, of a floating point type; got x {describe(x)}, give x.float().")
    if x.device != weight.device:
        raise ValueError(
            f"x must be where the weights are, on {weight.device}; got x {describe(x)} on {x.device}."
        )
    if x.dtype != weight.dtype and (x.is_meta or not torch.is_autocast_enabled(x.device.type)):
        raise ValueError(
            f"x must be of the type of {name}'s weights, {describe(weight).split()[-1]}; got x {describe(x)}. Give "
            "x.to(weight.dtype), or run it under torch.autocast."
        )
    if batch is None:
        if (x.dim() == 3 and x.shape[1] == 0) or (x.dim() == 2 and x.shape[0] == 0):
            raise ValueError(f"{expected}, with a point at least in each cloud; got x {describe(x)}.")
    elif isinstance(batch, Tensor) and batch.device != x.device:
        raise ValueError(
            f"batch must be where x is, on {x.device}; got batch {describe(batch)} on {batch.device}."
        )
