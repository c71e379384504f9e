"""What all tasks over points share: building their networks, the noise, and clouds packed for a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from dropfold.data_scripts.schemas.centre import Centre
from dropfold.data_scripts.work.notes import say
from dropfold.models import NETWORKS, DropCluster, DropFeat, DropPoint
from dropfold.models.clouds.initial import draw_xavier
from dropfold.train.config.channels import Channels
from dropfold.train.config.configs import PointConfig, Signature

# Arguments of networks whose fields in the config have another name.
FIELDS = {"input_transform": "transforms", "feature_transform": "transforms"}


def build_classifier(config: PointConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config for whole clouds; `steps` are those of an epoch, for the noise's warm-up."""
    network = NETWORKS[config.network]
    names = *network.options, *network.classification_options
    assert signature.channels is not None
    options = _options(names, config, signature.channels, steps)
    return with_initial_weights(
        network.classification(len(signature.class_names), signature.channels.total, **options), config
    )


def build_segmenter(config: PointConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config for points; `steps` are those of an epoch, for the noise's warm-up."""
    if config.network == "pointnet" and not config.transforms:
        raise ValueError(
            "PointNet for parts and scenes has its transforms always; leave out --no-transforms."
        )
    network = NETWORKS[config.network]
    assert signature.channels is not None
    options = _options(network.options, config, signature.channels, steps)
    segmenter = network.segmentation(
        len(signature.class_names),
        signature.channels.total,
        categories=len(signature.categories) or None,
        **options,
    )
    return with_initial_weights(segmenter, config)


def with_initial_weights(network: nn.Module, config: PointConfig) -> nn.Module:
    """The network with the initial weights that the config asks for; ValueError if it is none of yanx27's."""
    if config.initial_weights == "xavier":
        if config.network == "dgcnn":
            raise ValueError(
                "initial_weights xavier is yanx27's, who has PointNet and PointNet++ and no DGCNN; give "
                "--initial-weights torch."
            )
        draw_xavier(network.named_modules())
        network.draw_weights = draw_xavier  # type: ignore[assignment]  # of layers that get other sizes
    return network


def _options(names: Iterable[str], config: PointConfig, channels: Channels, steps: int) -> dict[str, Any]:
    """The arguments of a network: those that all share, and the named ones, of the config or of the channels."""
    return {
        **{
            name: getattr(channels if hasattr(channels, name) else config, FIELDS.get(name, name))
            for name in names
        },
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
    name += " (compressed)" if config.sizes else ""
    name += " (transformed)" if config.operations else ""
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


def centre_in(signature: Signature) -> Centre:
    """Where the shapes that a run was trained on stand in their unit spheres; their mean if that is not known, which is
    said."""
    if signature.centre:
        return signature.centre
    say(
        "how the training shapes were centred and scaled is not known (a data set with a frame of its own, or a run of an "
        "older version): this shape is centred on the mean of its points and scaled into the unit sphere."
    )
    return "mean"
