"""Random augmentation of a batch of clouds.

One generator serves the whole batch, so the result does not depend on how many processes share the batch, nor on what ran
before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dropfold.train.config.channels import Channels
from dropfold.train.config.configs import AugmentConfig

TURNED = ("pos", "normal")  # the channels that augmentation changes; of normals only the direction


def augment_channels(
    x: Tensor, channels: Channels, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Points x [B, N, C] with these channels: coordinates and normals augmented, the others as they are."""
    turned = torch.cat([x[..., channels.slices[kind]] for kind in TURNED], -1)
    parts = augment(turned, config, generator).split([getattr(channels, kind) for kind in TURNED], -1)
    augmented = dict(zip(TURNED, parts, strict=True))
    return torch.cat([augmented.get(kind, x[..., place]) for kind, place in channels.slices.items()], -1)


def augment(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Clouds [B, N, 3 or 6] (xyz, normals), augmented; normals turn with the cloud and are not scaled."""
    B, N, _ = x.shape
    points, rest = x[..., :3], x[..., 3:]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    if config.rotate:
        turn = upright_rotation(uniform(0, 2 * math.pi, B), config.up)
        points = points @ turn
        rest = rest @ turn if rest.shape[-1] else rest
    points = points * uniform(*config.scale, B, 1, 3 if config.scale_per_axis else 1)
    points = points + uniform(-config.shift, config.shift, B, 1, 3)
    if config.jitter:
        noise = config.jitter * torch.randn(points.shape, generator=generator)
        points = points + noise.clamp(-5 * config.jitter, 5 * config.jitter)
    if config.point_dropout:
        p = config.point_dropout * torch.rand(B, 1, 1, generator=generator)
        dropped = torch.rand(B, N, 1, generator=generator) <= p
        points = torch.where(dropped, points[:, :1], points)
        rest = torch.where(dropped, rest[:, :1], rest) if rest.shape[-1] else rest
    return torch.cat([points, rest], -1)


def upright_rotation(angles: Tensor, up: str = "y") -> Tensor:
    """Matrices [B, 3, 3] that turn row vectors about the y or the z axis."""
    c, s = angles.cos(), angles.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = (
        [c, zero, -s, zero, one, zero, s, zero, c]
        if up == "y"
        else [c, s, zero, -s, c, zero, zero, zero, one]
    )
    return torch.stack(rows, -1).view(-1, 3, 3)
