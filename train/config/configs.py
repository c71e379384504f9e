"""The config of a run: a dataclass that is its file, its command line and its recipe at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from dropfold.models.clouds.networks import NetworkName
from dropfold.models.formats import FormatSpec
from dropfold.train.config.channels import Channels, Graph


@dataclass
class Config:
    """The options of every run, whatever it learns from."""

    task: ClassVar[str]
    """Which module of `dropfold.train.tasks.registry` loads, builds and shows."""

    data: Path
    """The data set, an HDF5 file made by data_scripts."""
    epochs: int = 250
    """Passes over the training split."""
    batch_size: int = 32
    """Samples in a step, over all processes."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with momentum 0.9, or Adam."""
    lr: float = 0.1
    """Learning rate at the start; of "one-cycle", the largest."""
    lr_end: float = 1e-3
    """Learning rate at the end of the cosine."""
    schedule: Literal["cosine", "step", "one-cycle"] = "cosine"
    """Cosine to lr_end, or lr_factor every lr_epochs epochs, both once an epoch; or, step by step, from lr / 25 up to lr
    over 30 % of the run and down to lr / 250,000, by cosines (torch's OneCycleLR)."""
    lr_factor: float = 0.7
    """Factor by which the step schedule lowers the rate."""
    lr_epochs: int = 20
    """Epochs between two steps of the step schedule."""
    lr_drops: tuple[int, ...] = ()
    """Epochs, counted from 0, from which on the step schedule's rate is lowered, instead of every lr_epochs."""
    lr_ahead: int = 0
    """Epochs that the step schedule is ahead: with 1 the first rate lasts lr_epochs - 1 epochs (yanx27's classification)."""
    lr_floor: float = 0.0
    """The step schedule goes no lower than this."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    clip: float | None = None
    """Largest norm of a step's gradient; longer ones are scaled down to it."""
    label_smoothing: float = 0.2
    """Probability that is spread over the other classes."""
    dropout: float = 0.5
    """Dropout in the head."""
    select: Literal["validation", "test"] = "validation"
    """Split whose best epoch is reported beside the last one. "test" is how the peers choose; it flatters."""
    validate_every: int = 1
    """Epochs from one score on that split to the next; the last epoch is always scored."""
    protocol: Literal["split", "fold", "group-fold", "area"] = "split"
    """The file's own split, or a fold of five to test on. Shapes: stratified folds of all of them, made from the labels, or
    folds of whole groups, where the file has groups (ldraw: all variants of a mould).
    Videos: the file's random folds of clips, as the papers did (a clip's scene and actor can then be in both training and
    test, which flatters), or its folds of whole groups. Rooms: an area, "area"."""
    held_out: int | None = None
    """fold, group-fold and area: the one to test on."""
    train_on_validation: bool = False
    """Train on the validation split too (as the peers do); only the last epoch can be reported then."""
    amp: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    seed: int = 0
    """Of everything: weights, order, augmentation, noise."""
    out: Path | None = None
    """The run's folder; default: runs/RECIPE-DATE-TIME."""
    start: Path | None = None
    """Begin from the weights of the finished run in this folder; its classes, channels and network must be the same."""
    resume: Path | None = None
    """Continue the run in this folder, with its own config."""
    sizes: Annotated[dict[str, list[int]], tyro.conf.Suppress] = field(default_factory=dict)
    """Channels out and in of layers that have other ones than the network's usual (set by `dropfold compress`)."""
    operations: Annotated[dict[str, str], tyro.conf.Suppress] = field(default_factory=dict)
    """Operations that stand in the places of layers (set by `dropfold transform`)."""
    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases, if it is installed. It never stops a run."""
    recipe: str = ""
    """The recipe's name (set by it)."""


@dataclass
class NoiseConfig:
    """Noise on the point features."""

    kind: Literal["none", "feat", "point", "cluster"] = "none"
    """DropFeat, DropPoint, DropCluster, or none."""
    p: float = 0.3
    """Drop probability, 0 <= p < 1."""
    layers: tuple[str, ...] = ("pool",)
    """Layers that carry it; "pool", inside the last max, is the recommended one.
    A wrong name is refused with those that the network has."""
    k: int = 32
    """Cluster: points in a neighbourhood."""
    reading: Literal["gather", "scatter"] = "gather"
    """Cluster: a point is dropped if one of its neighbours is a seed, or each seed drops its neighbours."""
    space: Literal["coordinates", "features", "graph"] = "coordinates"
    """Cluster: the space in which neighbours are searched; "graph" takes DGCNN's own neighbours."""
    radius: float | None = None
    """Cluster: neighbours farther away are left out."""
    scaling: Literal["unbiased", "count", "none"] = "unbiased"
    """Scale of the kept features; inside a max nothing is scaled."""
    warmup_epochs: float = 0.0
    """Epochs over which p grows linearly from 0."""


@dataclass
class AugmentConfig:
    """Random augmentation of the training clouds, another for each shape and epoch."""

    scale: tuple[float, float] = (2 / 3, 3 / 2)
    """Range of the random scale."""
    scale_per_axis: bool = True
    """One scale for each axis, or one for all three."""
    shift: float = 0.2
    """Half the range of the random shift along each axis."""
    rotate: bool = False
    """Turn about the upright axis by a random angle."""
    up: Literal["y", "z"] = "y"
    """The upright axis."""
    jitter: float = 0.0
    """Standard deviation of the noise on coordinates (clipped at 5 of them)."""
    point_dropout: float = 0.0
    """Largest share of points replaced by the first one (PointNet++'s random point dropout)."""


@dataclass
class PointConfig(Config):
    """The options of every network over points, whatever it predicts."""

    network: NetworkName = "dgcnn"
    """The network."""
    points: int = 1024
    """Points of a sample that the network sees."""
    transforms: bool = True
    """PointNet: the input transform and the feature transform."""
    regularization: float = 0.001
    """Weight of PointNet's feature-transform penalty."""
    grouping: Literal["ssg", "msg"] = "ssg"
    """PointNet++: balls of one scale around a centre, or of several."""
    radius: float = 1.0
    """PointNet++: scale of the published radii; larger for blocks with fewer points."""
    k: int = 20
    """DGCNN: neighbours of a point."""
    emb_dims: int = 1024
    """DGCNN: width of the pooled embedding."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Noise on point features."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    initial_weights: Literal["torch", "xavier"] = "torch"
    """torch's own, or yanx27's for segmentation: Xavier's normal distribution, and no bias, in PointNet's fully connected
    layers and PointNet++'s set abstraction."""
    norm_decay: float = 1.0
    """BatchNorm's momentum is multiplied by this every lr_epochs epochs, down to a tenth (yanx27's segmentation: 0.5)."""
    sync_batch_norm: bool = True
    """BatchNorm statistics over all processes."""


@dataclass
class CloudConfig(PointConfig):
    """A network that classifies point clouds (an HDF5 file of dropfold.data_scripts.schemas.shape_schema)."""

    task: ClassVar[str] = "clouds"

    resample: bool = False
    """Train on a fresh random choice of the shape's points each time, instead of the first ones."""
    normals: bool = False
    """Feed normals as three more channels."""


@dataclass
class PartConfig(PointConfig):
    """A network that predicts the part of each point of a shape (an HDF5 file of part_schema)."""

    task: ClassVar[str] = "parts"

    points: int = 2048
    k: int = 40
    normals: bool = False
    """Feed normals as three more channels."""
    own_parts: bool = False
    """Train on the choice among the parts of the shape's own category, which is all that the metrics ask; the peers train on
    that among the parts of all categories."""
    all_parts: bool = False
    """Choose a point's part among those of all categories, in scores and predictions, as antao97 does; otherwise among
    those of the shape's category, as yanx27 does."""
    local_shape: bool = False
    """Feed how the points around each point lie, all of the shape's, as 24 more channels (local_shape)."""


@dataclass
class BlockConfig(PointConfig):
    """A network that predicts the class of each point of a room, from blocks cut beforehand (an HDF5 file of
    dropfold.data_scripts.schemas.block_schema)."""

    task: ClassVar[str] = "blocks"

    points: int = 4096
    colour: bool = True
    """Feed colours, three of nine channels."""
    graph: Graph = "place"
    """DGCNN: a point's first neighbours are the nearest by the place in the room, as published, or by the coordinates
    in the block (pos)."""
    class_weights: bool = False
    """Weigh each class by (most points of a class / its points)^(1/3) in the loss, counted over the training split."""
    block: float = 1.0
    """Width of a block in metres, along x and y; a block is as high as the room."""
    stride: float = 0.5
    """Whole rooms: metres from a block to the next one."""
    votes: int = 1
    """Whole rooms: how often each block is cut into groups of points and labelled."""


@dataclass
class SceneConfig(BlockConfig):
    """The same from whole rooms, of which blocks are cut while training (an HDF5 file of
    dropfold.data_scripts.schemas.scene_schema)."""

    task: ClassVar[str] = "scenes"

    local_shape: bool = False
    """Feed how the points around each point lie, at the room's full density, as 24 more channels (local_shape)."""
    blocks: int | None = None
    """Blocks in an epoch; default: points of the training rooms x sample_rate / points."""
    sample_rate: float = 1.0
    """See blocks."""
    fewest: int = 1024
    """A training block is centred on a random point whose block has more points than this; if 16 tries find none, the
    fullest of them is taken."""
    pool_points: int = 1 << 25
    """Points of the rooms that blocks are cut from at a time, which bounds the memory; an epoch goes pool by pool."""
    validation_blocks: int = 64
    """Blocks, always the same, that the epochs are compared on; at the end whole rooms are labelled."""


@dataclass
class VideoConfig(Config):
    """A recurrent network that classifies videos, pixel by pixel (an HDF5 file of video_schema)."""

    task: ClassVar[str] = "video"

    epochs: int = 80
    batch_size: int = 16
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    schedule: Literal["cosine", "step", "one-cycle"] = "one-cycle"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrence."""
    hidden: int = 256
    """Width of the hidden state."""
    layers: int = 1
    """Recurrent layers."""
    bidirectional: bool = False
    """Read each clip backwards too."""
    reset: Literal["after", "before"] = "after"
    """GRU: the reset gate after the hidden product (cuDNN's), or before it (the one that `mega` can express)."""
    ih: FormatSpec = field(default_factory=FormatSpec)
    """The input-to-hidden matrix."""
    hh: FormatSpec = field(default_factory=FormatSpec)
    """The hidden-to-hidden matrix."""
    mega: FormatSpec = field(default_factory=FormatSpec)
    """One matrix over the stacked [x; h] in place of both; "dense" is none."""
    recurrent_dropout: float = 0.0
    """Dropout on the hidden state, one mask for all frames of a clip."""
    hidden_gain: float = 1.0
    """Standard deviation of the hidden matrix's product with unit states at the start; `mega` has its own."""
    frames: int | None = None
    """Frames of a clip that the network sees; default: all that are stored."""
    choose: Literal["uniform", "first"] = "uniform"
    """Which frames, if fewer are seen than a clip has: spread over it, or its first ones."""
    shift: int = 0
    """Training clips are moved by up to so many pixels along both axes, all frames of a clip alike."""
    mean: float = 0.5
    """Subtracted from the pixels, read as 0 to 1 ..."""
    std: float = 0.25
    """... which are then divided by this."""


@dataclass
class ImageConfig(Config):
    """A convolutional network that classifies images (an HDF5 file of image_schema). BatchNorm's statistics are of each
    process's part of a batch."""

    task: ClassVar[str] = "images"

    epochs: int = 200
    batch_size: int = 128
    lr_end: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    network: str = "resnet20"
    """resnet20, resnet32, resnet56, resnet110 or vgg16, all in their CIFAR form; or torchvision:NAME, where it is
    installed."""
    padding: int = 4
    """Training images get so many black rows and columns on each side, and a window of their size is cut at random."""
    flip: bool = True
    """Training images are mirrored, left and right, one in two."""


CONFIGS: dict[str, type[Config]] = {
    kind.task: kind for kind in (CloudConfig, PartConfig, BlockConfig, SceneConfig, VideoConfig, ImageConfig)
}


@dataclass
class Signature:
    """What a trained network maps: its input's shape, without the batch, to one of (or, multi-label, any of) the classes.

    Where the classes are parts, `categories` are the kinds of shapes, and `part_category` [classes] the kind that each part
    belongs to. `channels` says what the channels of a point mean; None if samples are no points. `codes`
    [classes] are the numbers of the classes in files of labelled points, read and written; empty: 0 .. classes - 1.
    `channel_mean` and `channel_std` are those of each channel over the training images, as numbers from 0 to 1. `centre`
    says where the shapes of the data stand in their unit spheres; empty: neither on their mean nor on their box, no shapes,
    or a run of an older version."""

    class_names: list[str]
    shape: tuple[int, ...] = ()
    multi_label: bool = False
    categories: list[str] = field(default_factory=list)
    part_category: list[int] = field(default_factory=list)
    channels: Channels | None = None
    codes: list[int] = field(default_factory=list)
    channel_mean: list[float] = field(default_factory=list)
    channel_std: list[float] = field(default_factory=list)
    centre: Literal["", "mean", "box"] = ""

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        self.codes = list(self.codes) or list(range(classes))
        if not len(self.codes) == len(set(self.codes)) == classes:
            raise ValueError(
                f"codes are {self.codes[:20]}, expected a number of its own for each of the {classes} classes."
            )

    @property
    def fixed(self) -> tuple[int, ...]:
        """The lengths that samples of other data must have, too: all of an image, all but the first (points, frames) of
        others."""
        return self.shape if self.channel_mean else self.shape[1:]

    @property
    def titles(self) -> list[str]:
        """The names for readers, with the codes where these are other numbers than 0 .. classes - 1 and say more."""
        if self.codes == list(range(len(self.class_names))):
            return self.class_names
        return [
            name if name == str(code) else f"{name} ({code})"
            for name, code in zip(self.class_names, self.codes)
        ]
