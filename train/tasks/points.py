"""What all networks over points share: noise by layer name, penalty, description, and clouds packed for a page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from torch import Tensor, nn

from dropfold.models import DropCluster, DropFeat, DropPoint
from dropfold.train.config.configs import PointConfig

NAMES = {"pointnet": "PointNet", "pointnet2": "PointNet++", "dgcnn": "DGCNN"}


def noises(config: PointConfig, steps: int) -> dict[str, nn.Module] | None:
    """The noise of each layer that carries one; `steps` are those of an epoch, for the warm-up."""
    if config.noise.kind == "none":
        return None
    return {layer: _noise(config, steps) for layer in config.noise.layers}


def _noise(config: PointConfig, steps: int) -> nn.Module:
    noise = config.noise
    warmup = round(noise.warmup_epochs * steps)
    options: dict[str, Any] = {"scaling": noise.scaling}
    if warmup:
        options |= {"schedule": "linear", "warmup_steps": warmup}
    if noise.kind == "feat":
        return DropFeat(noise.p, **options)
    if noise.kind == "point":
        return DropPoint(noise.p, **options)
    return DropCluster(
        noise.p, noise.k, reading=noise.reading, space=noise.space, radius=noise.radius, **options
    )


def penalty(network: Any, config: PointConfig) -> Tensor | None:
    """PointNet's, on its feature transform."""
    if config.network != "pointnet" or not config.regularization:
        return None
    return config.regularization * network.regularization()


def describe(config: PointConfig) -> str:
    """The network and its noise."""
    noise = config.noise
    kind = "no noise" if noise.kind == "none" else f"Drop{noise.kind.capitalize()} p {noise.p}"
    if noise.kind == "cluster":
        kind += f", clusters of {noise.k}"
    name = NAMES[config.network] + (f" ({config.grouping.upper()})" if config.network == "pointnet2" else "")
    return f"{name} with {kind}, {config.points} points"


def facts(network: nn.Module) -> dict[str, Any]:
    """Nothing beside the parameters."""
    return {}


def packed(points: np.ndarray) -> str:
    """Coordinates in the unit sphere as base64 of int8."""
    scale = max(1e-9, float(np.abs(points).max()))
    return text(np.round(127 * points / max(1.0, scale)).astype(np.int8))


def text(values: np.ndarray) -> str:
    """The bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
