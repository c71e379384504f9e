"""Point clouds: their file, their batches, their networks, and their pictures (see `dropfold.train.tasks.task`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.schemas import shape_schema, splits
from dropfold.data_scripts.schemas.centre import centre_of
from dropfold.data_scripts.work.notes import say
from dropfold.kernels import Noise, knn
from dropfold.kernels.noise.draw.operation import Reading, row_keep_scale
from dropfold.kernels.noise.philox.operation import uniform
from dropfold.train.config.configs import CloudConfig, Signature
from dropfold.train.data.augment import augment_channels
from dropfold.train.data.data_file import find_data_set
from dropfold.train.data.input_channels import channels_of
from dropfold.train.data.splits import Batch, Data, Split, by_protocol, parts
from dropfold.train.data.splits import batches as data_batches
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.tasks import classification, points
from dropfold.train.tasks.section import ClassTable, Section
from dropfold.train.tasks.segmentation import check_points

NOUN = SAMPLES = "shapes"
CLASSES = "classes"
FRAME = 1024  # points by which a shape is centred: those of the shapes that ship
SEEDS_TRIED = 100  # of the noise that a report shows
samples, scores = classification.samples, classification.scores
describe, facts = points.describe, points.facts


def load(config: CloudConfig) -> Data[Split]:
    """Read `config.data` and cut it into splits; ValueError if it has too few points or no normals."""
    path = find_data_set(config)
    clouds = shape_schema.read(path)
    if clouds.points.shape[1] < config.points:
        raise ValueError(
            f"{path} has {clouds.points.shape[1]} points a shape and the config asks for {config.points}."
        )
    check_points(config, 512)
    if config.normals and clouds.normals is None:
        raise ValueError(f"{path} has no normals and the config asks for them.")
    x = clouds.points if not config.normals else np.concatenate([clouds.points, clouds.normals], -1)

    def cut(index: np.ndarray) -> Split:
        return Split((torch.from_numpy(x[index]),), torch.from_numpy(clouds.label[index]), index)

    folds = {"fold": splits.stratified_folds(clouds.label), "group-fold": clouds.group_fold}
    split = by_protocol(config, clouds.split, folds)
    if config.protocol == "group-fold" and clouds.group is not None:
        split = splits.carve_groups(clouds.group, clouds.label, split, 0.15)
    elif config.protocol == "fold":
        split = splits.carve_validation(clouds.label, split, 0.15)
        if clouds.group is not None:
            say(
                f"--protocol fold deals the shapes of {path} one by one: of one group some train and some test, which "
                "flatters; --protocol group-fold keeps groups whole."
            )
    if config.protocol == "group-fold" and not (split == shape_schema.TRAIN).any():
        raise ValueError(
            f"fold {config.held_out} of {path} leaves no group to train on: its {len(set(clouds.group or []))} groups are "
            "too few for folds of groups; use --protocol split."
        )
    train, validation, test = map(cut, parts(split, config))
    channels = channels_of(config)
    centre = centre_of(clouds.points)
    signature = Signature(
        clouds.class_names, (config.points, channels.total), channels=channels, centre=centre
    )
    origin = clouds.name, clouds.source, clouds.credits, clouds.checksum
    return Data(train, validation, test, signature, *origin)


def draw(split: Split, chosen: Tensor, config: CloudConfig, generator: torch.Generator) -> Batch:
    """Training clouds (x [b, points, C],), resampled and augmented, and their classes."""
    x = split.inputs[0][chosen]
    if config.resample:
        chosen_points = torch.rand(x.shape[:2], generator=generator).argsort(1)[:, : config.points]
        x = x.gather(1, chosen_points[..., None].expand(-1, -1, x.shape[2]))
    else:
        x = x[:, : config.points]
    return (augment_channels(x, channels_of(config), config.augment, generator),), split.label[chosen]


def inputs(split: Split, config: CloudConfig) -> tuple[Tensor, ...]:
    """The first points of each cloud."""
    return (split.inputs[0][:, : config.points],)


def batches(
    split: Split, config: CloudConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This rank's part of each batch of an epoch: shapes in random order."""
    return data_batches(draw, split, config, epoch, rank, processes)


def predict_split(network: nn.Module, split: Split, config: CloudConfig, final: bool = False) -> Predictions:
    """Logits."""
    return classification.predict_split(network, inputs(split, config), split, config)


def class_table(scores: Scores, predictions: Predictions, signature: Signature) -> ClassTable:
    """Recall and precision."""
    return classification.class_table(scores, predictions, signature, NOUN)


def build(config: CloudConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config; `steps` are those of an epoch, for the noise's warm-up."""
    return points.build_classifier(config, signature, steps)


def read(
    file: Path, config: CloudConfig, signature: Signature, votes: int, layout: Layout = AS_FOUND
) -> tuple[Tensor, ...]:
    """A mesh or cloud in a file as `votes` clouds; ValueError says what is wrong with it."""
    from dropfold.data_scripts.readers.shapes import read_shape

    centre = points.centre_in(signature)
    shapes = [
        read_shape(file, config.points, seed, layout=layout, centre=centre, frame=FRAME)
        for seed in range(votes)
    ]
    if config.normals and shapes[0][1] is None:
        raise ValueError(f"{file} has no normals, and the run was trained with them.")
    clouds = [np.concatenate([p, n], 1) if config.normals and n is not None else p for p, n in shapes]
    return (torch.from_numpy(np.stack(clouds)),)


def pictures(config: CloudConfig, data: Data[Split], shown: list[int]) -> list[dict[str, Any]]:
    """Test shapes to turn."""
    clouds = (data.test.inputs[0][i, : config.points, :3].numpy() for i in shown)
    return [{"points": points.pack_points(cloud)} for cloud in clouds]


def galleries(config: CloudConfig, data: Data[Split], predictions: Predictions) -> list[Section]:
    """Right ones and wrong ones."""
    return classification.galleries(config, data, predictions, pictures, NOUN)


def sections(config: CloudConfig, data: Data[Split], network: Callable[[], nn.Module]) -> list[Section]:
    """The three noises on the first training shape of the first class."""
    first = int((data.train.label == data.train.label.min()).nonzero()[0])
    cloud = np.ascontiguousarray(data.train.inputs[0][first, : config.points, :3].numpy())
    p = config.noise.p if config.noise.kind != "none" else 0.3
    notes = {
        "feat": "each feature on its own; shown: 3 a point",
        "point": "single points",
        "cluster": f"clusters of {config.noise.k}",
    }
    shown = {}
    for level, note in notes.items():
        share, seed, nothing = draw_typical(cloud, level, p, config.noise.k, config.noise.reading)
        dropped = (
            f"{100 * share.mean():.0f} % of the features"
            if level == "feat"
            else (f"{int(share.sum())} of {len(cloud)} points")
        )
        seldom = f"; {nothing} of {SEEDS_TRIED} seeds drop nothing" if nothing else ""
        shown[level] = share, f"{note}; dropped: {dropped} (seed {seed}{seldom})"
    items = [
        {
            "title": f"Drop{level.capitalize()}, p {p}",
            "note": note,
            "points": points.pack_points(cloud),
            "dropped": points.to_base64((255 * share).astype(np.uint8)),
            "graded": level == "feat",
        }
        for level, (share, note) in shown.items()
    ]
    text = (
        "The three noises at one drop probability on a training shape's coordinates. Orange is dropped. Each is drawn with "
        f"the first of the seeds 0 .. {SEEDS_TRIED - 1} that drops between half and one and a half times p (or the nearest "
        "to p that drops something); a training step takes whatever it draws. Drag to turn."
    )
    return [Section("What the noise drops", text, items)]


def draw_typical(
    cloud: np.ndarray, level: str, p: float, k: int, reading: Reading
) -> tuple[np.ndarray, int, int]:
    """`(share [N], seed, nothing)`: what a typical draw of noise drops of each point's features, of a cloud [N, 3]; its
    seed, the first of 0 .. SEEDS_TRIED - 1 that drops between half and one and a half times p, or else the nearest to p that
    drops something; and how many of these seeds drop nothing."""
    draws = [dropped_share(cloud, level, p, k, seed, reading) for seed in range(SEEDS_TRIED)]
    means = np.array([draw.mean() for draw in draws])
    near = np.flatnonzero(np.abs(means - p) <= p / 2)
    distance = np.where(means > 0, np.abs(means - p), 1.0)
    seed = int(near[0]) if len(near) else int(np.argmin(distance))
    return draws[seed], seed, int((means == 0).sum())


def dropped_share(
    cloud: np.ndarray, level: str, p: float, k: int, seed: int = 4, reading: Reading = "gather"
) -> np.ndarray:
    """[N]: the share of each point's features that one draw of noise drops, of a cloud [N, 3]; 0 or 1 but for DropFeat."""
    x, n, rate = torch.from_numpy(cloud), len(cloud), torch.tensor(p)
    if level == "feat":
        return (uniform(torch.tensor(seed), 3 * n).view(n, 3) < rate).float().mean(1).numpy()
    neighbours = knn(x, min(k, n)) if level == "cluster" else None
    noise = Noise(level, rate, torch.tensor(seed), neighbours, reading)  # type: ignore[arg-type]
    return (row_keep_scale(noise, torch.tensor([0, n]), n) == 0).float().numpy()


def log_predictions(
    wandb: Any, config: CloudConfig, data: Data[Split], predictions: Predictions
) -> dict[str, Any]:
    """The confusion matrix and turnable test clouds."""

    def picture(i: int) -> Any:
        return wandb.Object3D(data.test.inputs[0][i, : config.points].numpy())

    return classification.log_predictions(wandb, data, predictions, picture)
