"""What all tasks over points share: the table of networks, their noise, and clouds packed for a page."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from dropfold.models import (
    DGCNN,
    DGCNNSegmentation,
    DropCluster,
    DropFeat,
    DropPoint,
    PointNet,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
)
from dropfold.train.config.configs import PointConfig


@dataclass(frozen=True)
class Network:
    """A network by its name in reports: its form that classifies clouds, its form that classifies points, and the options
    that a config gives to both, or to the first alone."""

    title: str
    classifier: Callable[..., nn.Module]
    segmenter: Callable[..., nn.Module]
    options: Callable[[PointConfig], dict[str, Any]] = lambda config: {}
    classifier_options: Callable[[PointConfig], dict[str, Any]] = lambda config: {}


NETWORKS = {
    "pointnet": Network(
        "PointNet",
        PointNet,
        PointNetSegmentation,
        classifier_options=lambda config: {
            "input_transform": config.transforms,
            "feature_transform": config.transforms,
        },
    ),
    "pointnet2": Network(
        "PointNet++",
        PointNet2,
        PointNet2Segmentation,
        lambda config: {"grouping": config.grouping, "radius": config.radius},
    ),
    "dgcnn": Network(
        "DGCNN",
        DGCNN,
        DGCNNSegmentation,
        lambda config: {"k": config.k, "emb_dims": config.emb_dims},
    ),
}


def build_classifier(config: PointConfig, classes: int, channels: int, steps: int = 1) -> nn.Module:
    """The network of a config for whole clouds; `steps` are those of an epoch, for the noise's warm-up."""
    network = NETWORKS[config.network]
    options = network.options(config) | network.classifier_options(config)
    return network.classifier(classes, channels, **options, **_shared_options(config, steps))


def build_segmenter(
    config: PointConfig, classes: int, channels: int, categories: int | None = None, steps: int = 1
) -> nn.Module:
    """The network of a config for points; `steps` are those of an epoch, for the noise's warm-up."""
    if config.network == "pointnet" and not config.transforms:
        raise ValueError(
            "PointNet for parts and scenes has its transforms always; leave out --no-transforms."
        )
    network = NETWORKS[config.network]
    options = network.options(config) | _shared_options(config, steps)
    return network.segmenter(classes, channels, categories=categories, **options)


def _shared_options(config: PointConfig, steps: int) -> dict[str, Any]:
    return {
        "dropout": config.dropout,
        "noise": make_noises(config, steps),
        "sync_batch_norm": config.sync_batch_norm,
    }


def make_noises(config: PointConfig, steps: int) -> dict[str, nn.Module] | None:
    """The noise of each layer that carries one; `steps` are those of an epoch, for the warm-up."""
    if config.noise.kind == "none":
        return None
    return {layer: _make_noise(config, steps) for layer in config.noise.layers}


def _make_noise(config: PointConfig, steps: int) -> nn.Module:
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


def describe(config: PointConfig) -> str:
    """The network and its noise."""
    noise = config.noise
    kind = "no noise" if noise.kind == "none" else f"Drop{noise.kind.capitalize()} p {noise.p}"
    if noise.kind == "cluster":
        kind += f", clusters of {noise.k}"
    name = NETWORKS[config.network].title
    name += f" ({config.grouping.upper()})" if config.network == "pointnet2" else ""
    return f"{name} with {kind}, {config.points} points"


def facts(network: nn.Module) -> dict[str, Any]:
    """Nothing beside the number of parameters."""
    return {}


def pack_points(points: np.ndarray) -> str:
    """Coordinates in the unit sphere as base64 of int8."""
    scale = max(1e-9, float(np.abs(points).max()))
    return to_base64(np.round(127 * points / max(1.0, scale)).astype(np.int8))


def to_base64(values: np.ndarray) -> str:
    """The bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
