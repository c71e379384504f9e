"""Recipes: a run is a `Config`, and a recipe is a function that returns one. The config is also the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from train.config import AugmentConfig, CloudConfig, Config, NoiseConfig

LABELED_MESHES = Path("data/local/labeled_meshes.h5")


def furniture() -> CloudConfig:
    """DGCNN with DropCluster on the furniture that ships with the project: minutes on a laptop."""
    return CloudConfig(
        data=Path("data/furniture.h5"),
        points=512,
        resample=True,
        epochs=45,
        batch_size=16,
        optimizer="adam",
        lr=1e-3,
        lr_end=1e-5,
        noise=NoiseConfig("cluster", p=0.3, k=32),
        augment=AugmentConfig(scale=(0.8, 1.25), shift=0.1),
    )


def furniture_pointnet() -> CloudConfig:
    """PointNet without transforms, with DropCluster, on furniture."""
    return replace(furniture(), network="pointnet", transforms=False, epochs=80, dropout=0.4)


def labeled_meshes() -> CloudConfig:
    """DGCNN with DropCluster on the labeled meshes (data_scripts.labeled_meshes)."""
    return replace(furniture(), data=LABELED_MESHES)


def labeled_meshes_pointnet() -> CloudConfig:
    """PointNet without transforms, with DropCluster, on the labeled meshes."""
    return replace(furniture_pointnet(), data=LABELED_MESHES)


def modelnet40_dgcnn() -> CloudConfig:
    """antao97's protocol: 1,024 points, SGD 0.1, cosine to 1e-3 over 250 epochs, label smoothing, no noise."""
    return CloudConfig(data=Path("data/local/modelnet40.h5"))


def modelnet40_pointnet() -> CloudConfig:
    """yanx27's protocol: 1,024 points, Adam 1e-3, x 0.7 every 20 of 200 epochs, point dropout, no noise."""
    return CloudConfig(
        data=Path("data/local/modelnet40.h5"),
        network="pointnet",
        epochs=200,
        batch_size=24,
        optimizer="adam",
        lr=1e-3,
        schedule="step",
        label_smoothing=0.0,
        dropout=0.4,
        augment=AugmentConfig(scale=(0.8, 1.25), scale_per_axis=False, shift=0.1, point_dropout=0.875),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "furniture": furniture,
    "furniture-pointnet": furniture_pointnet,
    "labeled-meshes": labeled_meshes,
    "labeled-meshes-pointnet": labeled_meshes_pointnet,
    "modelnet40-dgcnn": modelnet40_dgcnn,
    "modelnet40-pointnet": modelnet40_pointnet,
}


def recipe(name: str) -> Config:
    """The config of a recipe, with its name in it."""
    config = RECIPES[name]()
    config.recipe = name
    return config
