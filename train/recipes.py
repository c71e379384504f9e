"""Recipes: a run is a `Config`, and a recipe is a function that returns one. The config is also the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

LABELED_MESHES = Path("data/local/labeled_meshes.h5")


@dataclass
class NoiseConfig:
    """Noise on the point features."""

    kind: Literal["none", "feat", "point", "cluster"] = "none"
    """DropFeat, DropPoint, DropCluster, or none."""
    p: float = 0.3
    """Share that falls, 0 <= p < 1."""
    layers: tuple[str, ...] = ("pool",)
    """Layers that carry it; "pool", inside the last max, is the recommended one.
    PointNet has conv1 conv2 pool, DGCNN edge1 edge2 edge3 edge4 pool."""
    k: int = 32
    """Cluster: points in a neighbourhood."""
    reading: Literal["gather", "scatter"] = "gather"
    """Cluster: a point falls with its neighbours, or a seed drops its neighbours."""
    space: Literal["coordinates", "features", "graph"] = "coordinates"
    """Cluster: where neighbours are found; "graph" is DGCNN's own."""
    radius: float | None = None
    """Cluster: neighbours farther away are left out."""
    scaling: Literal["unbiased", "count", "none"] = "unbiased"
    """Of what is kept; inside a max nothing is scaled."""
    warmup_epochs: float = 0.0
    """Epochs over which p grows linearly from 0."""


@dataclass
class AugmentConfig:
    """Augmentation of the training clouds, drawn anew for each shape and epoch."""

    scale: tuple[float, float] = (2 / 3, 3 / 2)
    """Range of the factor."""
    scale_per_axis: bool = True
    """A factor for each axis, or one for all three."""
    shift: float = 0.2
    """Half the range of the shift along each axis."""
    rotate: bool = False
    """Turn about the upright axis by any angle."""
    jitter: float = 0.0
    """Standard deviation of the noise on coordinates (clipped at 5 of them)."""
    point_dropout: float = 0.0
    """Largest share of points replaced by the first one (PointNet++'s random point dropout)."""


@dataclass
class Config:
    """One training run."""

    data: Path
    """The data set, an HDF5 file of data_scripts.schema."""
    network: Literal["dgcnn", "pointnet"] = "dgcnn"
    """The network."""
    points: int = 1024
    """Points of a cloud that the network sees."""
    resample: bool = False
    """Train on a fresh random choice of the shape's points each time, instead of the first ones."""
    normals: bool = False
    """Feed normals as three more channels."""
    epochs: int = 250
    """Passes over the training split."""
    batch_size: int = 32
    """Clouds in a step, over all processes."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with momentum 0.9, or Adam."""
    lr: float = 0.1
    """Learning rate at the start."""
    lr_end: float = 1e-3
    """Learning rate at the end of the cosine."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Cosine to lr_end, or lr_factor every lr_epochs epochs; both move once an epoch."""
    lr_factor: float = 0.7
    """Factor of the step schedule."""
    lr_epochs: int = 20
    """Epochs between two steps of the step schedule."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    label_smoothing: float = 0.2
    """Probability that is spread over the other classes."""
    transforms: bool = True
    """PointNet: the input transform and the feature transform."""
    regularization: float = 0.001
    """Weight of PointNet's feature-transform penalty."""
    k: int = 20
    """DGCNN: neighbours of a point."""
    emb_dims: int = 1024
    """DGCNN: width of the pooled embedding."""
    dropout: float = 0.5
    """Dropout in the head."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Noise on point features."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    select: Literal["validation", "test"] = "validation"
    """Split whose best epoch is reported beside the last one. "test" is how the peers choose; it flatters."""
    train_on_validation: bool = False
    """Train on the validation split too (as the peers do); only the last epoch can be reported then."""
    amp: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    sync_batch_norm: bool = True
    """BatchNorm statistics over all processes."""
    seed: int = 0
    """Of everything: weights, order, augmentation, noise."""
    out: Path | None = None
    """The run's folder; default: runs/RECIPE-DATE-TIME."""
    resume: Path | None = None
    """Continue the run in this folder, with its own config."""
    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases, if it is installed. It never stops a run."""
    recipe: str = ""
    """The recipe's name (set by it)."""


def furniture() -> Config:
    """DGCNN with DropCluster on the furniture that ships with the project: minutes on a laptop."""
    return Config(
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


def furniture_pointnet() -> Config:
    """PointNet without transforms, with DropCluster, on furniture."""
    return replace(furniture(), network="pointnet", transforms=False, epochs=80, dropout=0.4)


def labeled_meshes() -> Config:
    """DGCNN with DropCluster on the labeled meshes (data_scripts.labeled_meshes)."""
    return replace(furniture(), data=LABELED_MESHES)


def labeled_meshes_pointnet() -> Config:
    """PointNet without transforms, with DropCluster, on the labeled meshes."""
    return replace(furniture_pointnet(), data=LABELED_MESHES)


def modelnet40_dgcnn() -> Config:
    """antao97's protocol: 1,024 points, SGD 0.1, cosine to 1e-3 over 250 epochs, label smoothing, no noise."""
    return Config(data=Path("data/local/modelnet40.h5"))


def modelnet40_pointnet() -> Config:
    """yanx27's protocol: 1,024 points, Adam 1e-3, x 0.7 every 20 of 200 epochs, point dropout, no noise."""
    return Config(
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
