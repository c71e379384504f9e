"""The network of a config, the trained network of a run's folder, and its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import DGCNN, DropCluster, DropFeat, DropPoint, PointNet
from train import checkpoint
from train.recipes import Config


def build(config: Config, classes: int, steps: int = 1) -> nn.Module:
    """The network of a config; `steps` are those of an epoch, for the noise's warm-up."""
    noise = (
        {layer: _noise(config, steps) for layer in config.noise.layers}
        if config.noise.kind != "none"
        else None
    )
    channels = 6 if config.normals else 3
    if config.network == "pointnet":
        return PointNet(
            classes,
            channels,
            input_transform=config.transforms,
            feature_transform=config.transforms,
            dropout=config.dropout,
            noise=noise,
            sync_batch_norm=config.sync_batch_norm,
        )
    return DGCNN(
        classes,
        channels,
        k=config.k,
        emb_dims=config.emb_dims,
        dropout=config.dropout,
        noise=noise,
        sync_batch_norm=config.sync_batch_norm,
    )


def _noise(config: Config, steps: int) -> nn.Module:
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


def load_network(run: Path) -> tuple[Config, list[str], nn.Module]:
    """The config, class names and trained network of a run's folder."""
    from safetensors.torch import load_file

    config, class_names = checkpoint.load_config(run)
    path = run / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: the run has not ended; continue it with --resume {run}."
        )
    model = build(config, len(class_names))
    model.load_state_dict(load_file(path))
    return config, class_names, model.eval()


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 32) -> Tensor:
    """Logits [n, classes] of clouds x [n, N, C], in evaluation mode, on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    return torch.cat([model(part.to(device)).float().cpu() for part in x.split(batch_size)])
