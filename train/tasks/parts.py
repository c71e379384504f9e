"""Parts of shapes: their file, their batches, and what is shown of them (see `dropfold.train.tasks.task`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.schemas import part_schema, splits
from dropfold.data_scripts.schemas.centre import centre_of, normalised
from dropfold.train.config.configs import PartConfig, Signature
from dropfold.train.data.augment import augment_channels
from dropfold.train.data.data_file import find_data_set
from dropfold.train.data.input_channels import channels_of
from dropfold.train.data.local_shape import local_shape
from dropfold.train.data.splits import Batch, Data, by_protocol, generator, parts, spread
from dropfold.train.data.splits import batches as data_batches
from dropfold.train.scoring import metrics
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.scoring.objective import restrict_to_family
from dropfold.train.tasks import points, segmentation
from dropfold.train.tasks.section import ClassTable, Section
from dropfold.train.tasks.segmentation import PALETTE, compare_clouds, take

NOUN = SAMPLES = "shapes"
CLASSES = "parts"
SHOWN = 4  # shapes in each gallery
describe, facts = points.describe, points.facts


@dataclass
class Shapes:
    """Shapes of any number of points: shape i is rows ptr[i] .. ptr[i + 1] of x [M, C] and part [M], and of a category
    [n]; `index`, their places in the file; `part_category` [parts], the category that each part belongs to."""

    x: Tensor
    part: Tensor
    ptr: np.ndarray
    category: Tensor
    index: np.ndarray
    part_category: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def chosen(self, i: int, wanted: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`wanted` points of shape i and their parts, in random order."""
        start, end = self.ptr[i], self.ptr[i + 1]
        rows = start + take(end - start, wanted, torch.randperm(end - start, generator=generator))
        return self.x[rows], self.part[rows].long()

    def stacked(self, chosen: list[int], wanted: int, generators: list[torch.Generator]) -> Batch:
        """`((x [b, wanted, C], category [b]), part [b, wanted])`."""
        shapes = [self.chosen(i, wanted, random) for i, random in zip(chosen, generators, strict=True)]
        x, part = (torch.stack(values) for values in zip(*shapes, strict=True))
        return (x, self.category[chosen]), part


def load(config: PartConfig) -> Data[Shapes]:
    """Read `config.data` and cut it into splits; ValueError says what does not fit the config."""
    path = find_data_set(config)
    file = part_schema.read(path)
    segmentation.check_points(config, 512)
    if config.own_parts and config.label_smoothing:
        raise ValueError(
            f"label smoothing ({config.label_smoothing:g}) spreads over the parts of all categories, and own_parts leaves a "
            "shape its own; give --label-smoothing 0 or --no-own-parts."
        )
    if config.own_parts and config.all_parts:
        raise ValueError(
            "own_parts trains on the choice among the parts of a shape's category alone, and all_parts asks for one among "
            "the parts of all; give --no-own-parts or --no-all-parts."
        )
    if config.normals and file.normals is None:
        raise ValueError(f"{path} has no normals and the config asks for them.")
    columns = [file.points, file.normals] if config.normals else [file.points]
    if config.local_shape:
        shapes = (file.points[start:end] for start, end in pairwise(file.ptr))
        columns.append(np.concatenate([describe_surroundings(points, config) for points in shapes]))
    x = np.concatenate([values for values in columns if values is not None], 1)
    channels = channels_of(config)
    signature = Signature(
        file.part_names,
        (config.points, channels.total),
        categories=file.class_names,
        part_category=file.part_category.tolist(),
        channels=channels,
        codes=file.codes,
        centre=centre_of(file.points[start:end] for start, end in pairwise(file.ptr)),
    )
    part_category = torch.from_numpy(file.part_category)

    def cut(index: np.ndarray) -> Shapes:
        rows = np.concatenate([np.arange(file.ptr[i], file.ptr[i + 1]) for i in index] or [index])
        ptr = np.concatenate([[0], np.cumsum(np.diff(file.ptr)[index])])
        category = torch.from_numpy(file.category[index])
        points_and_parts = torch.from_numpy(x[rows]), torch.from_numpy(file.part[rows])
        return Shapes(*points_and_parts, ptr, category, index, part_category)

    split = by_protocol(config, file.split, {"fold": splits.stratified_folds(file.category)})
    if config.protocol == "fold":
        split = splits.carve_validation(file.category, split, 0.15)
    train, validation, test = map(cut, parts(split, config))
    origin = file.name, file.source, file.credits, file.checksum
    family = part_category if config.own_parts else None
    return Data(train, validation, test, signature, *origin, family=family)


def samples(split: Shapes, config: PartConfig) -> int:
    """Training shapes in an epoch."""
    return len(split)


def batches(
    split: Shapes, config: PartConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This rank's part of each batch of an epoch: shapes in random order."""
    return data_batches(draw, split, config, epoch, rank, processes)


def draw(split: Shapes, chosen: Tensor, config: PartConfig, generator: torch.Generator) -> Batch:
    """Training shapes, a fresh choice of their points, augmented."""
    (x, category), part = split.stacked(chosen.tolist(), config.points, [generator] * len(chosen))
    return (augment_channels(x, channels_of(config), config.augment, generator), category), part


def describe_surroundings(points: np.ndarray, config: PartConfig) -> np.ndarray:
    """`local_shape` of a shape's points, float32 [n, CHANNELS]."""
    return local_shape(points, "xyz".index(config.augment.up)).astype(np.float32)


def fixed(split: Shapes, chosen: list[int], config: PartConfig) -> Batch:
    """Shapes as evaluation sees them: always the same choice of points."""
    return split.stacked(chosen, config.points, [generator(0, int(split.index[i])) for i in chosen])


def build(config: PartConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config; `steps` are those of an epoch, for the noise's warm-up."""
    return points.build_segmenter(config, signature, steps)


@torch.no_grad()
def predict_split(network: nn.Module, split: Shapes, config: PartConfig, final: bool = False) -> Predictions:
    """The part of each point, among those of its shape's category, or of all (`all_parts`)."""
    device = next(network.parameters()).device
    network.eval()
    predicted_parts, target_parts, losses = [], [], []
    for start in range(0, len(split), config.batch_size):
        chosen = list(range(start, min(start + config.batch_size, len(split))))
        (x, category), part = fixed(split, chosen, config)
        logits = network(x.to(device), category.to(device)).float().cpu()
        own = restrict_to_family(logits, split.part_category, category[:, None])
        scored = own if config.own_parts else logits
        chosen_among = logits if config.all_parts else own
        losses.append(nn.functional.cross_entropy(scored.flatten(0, 1), part.flatten(), reduction="none"))
        predicted_parts.append(chosen_among.argmax(-1))
        target_parts.append(part)
    predicted, label = (
        torch.cat(parts).numpy().astype(np.uint8) for parts in (predicted_parts, target_parts)
    )
    kinds, ptr = split.category.numpy(), np.arange(len(split) + 1) * label.shape[1]
    part_category = split.part_category.numpy()
    return {
        "predicted": predicted,
        "label": label,
        "category": kinds,
        "index": split.index,
        "iou": metrics.shape_ious(label.ravel(), predicted.ravel(), ptr, kinds, part_category),
        "loss": np.array(float(torch.cat(losses).mean())),
    }


def scores(predictions: Predictions, signature: Signature) -> Scores:
    """The figures of predictions."""
    return metrics.part_scores(
        predictions["iou"],
        predictions["category"],
        predictions["label"],
        predictions["predicted"],
        len(signature.categories),
        float(predictions["loss"]),
    )


def class_table(scores: Scores, predictions: Predictions, signature: Signature) -> ClassTable:
    """The IoU of each category."""
    accuracy = (predictions["label"] == predictions["predicted"]).mean(1)
    category = predictions["category"]
    rows = [
        [name, int((category == c).sum()), float(scores.by_class[c]), metrics.mean(accuracy[category == c])]
        for c, name in enumerate(signature.categories)
    ]
    return ClassTable(["category", NOUN, "mean IoU of its shapes", "accuracy"], rows)


def galleries(config: PartConfig, data: Data[Shapes], predictions: Predictions) -> list[Section]:
    """The best and the worst shapes beside their truth, and each part's IoU."""
    order = np.argsort(predictions["iou"], kind="stable")
    text = "Truth, prediction, and in red the points where they differ. Drag to turn."
    sections = []
    for title, shown in (("worst", order[:SHOWN]), ("best", order[::-1][:SHOWN])):
        items = [item for i in shown.tolist() for item in picture(config, data, predictions, i)]
        sections.append(Section(f"The {title} test shapes", text, items, wide=True))
    return [*sections, part_table(predictions, data.signature)]


def picture(config: PartConfig, data: Data[Shapes], predictions: Predictions, i: int) -> list[dict[str, Any]]:
    """Test shape i, for the report."""
    (x, category), _ = fixed(data.test, [i], config)
    names, category_name = data.signature.class_names, data.signature.categories[int(category)]
    note = f"{category_name}, IoU {100 * predictions['iou'][i]:.1f} %"
    cloud = x[0, :, :3].numpy()
    cloud = cloud / max(1.0, float(np.abs(cloud).max()))
    parts = predictions["label"][i], predictions["predicted"][i]
    return compare_clouds(data.name[data.test.index[i]], note, cloud, *parts, names, colours(data.signature))


def colours(signature: Signature) -> np.ndarray:
    """[parts]: indices into the palette; the parts of a category have different ones."""
    category = np.array(signature.part_category)
    return np.array([(category[:p] == c).sum() for p, c in enumerate(category)]) % len(PALETTE)


def part_table(predictions: Predictions, signature: Signature) -> Section:
    """IoU of each part over the points of all shapes."""
    classes = len(signature.class_names)
    matrix = metrics.confusion(predictions["label"], predictions["predicted"], classes)
    ious = metrics.scene_scores(matrix).by_class.tolist()
    rows = [
        [name, f"{signature.categories[c]}", f"{count:,}", f"{100 * iou:.1f} %" if iou == iou else "–"]
        for name, c, count, iou in zip(
            signature.class_names, signature.part_category, matrix.sum(1).tolist(), ious, strict=True
        )
    ]
    return Section("Each part", head=["part", "category", "points", "IoU over all points"], rows=rows)


def sections(config: PartConfig, data: Data[Shapes], network: Callable[[], nn.Module]) -> list[Section]:
    """Nothing more."""
    return []


def log_predictions(
    wandb: Any, config: PartConfig, data: Data[Shapes], predictions: Predictions
) -> dict[str, Any]:
    """Turnable test shapes, predicted and true."""
    clouds = {}
    for i in spread(len(data.test), 4).tolist():
        (x, _), _ = fixed(data.test, [i], config)
        for name in ("predicted", "label"):
            colour = colours(data.signature)[predictions[name][i]]
            clouds[f"samples/{i}: {name}"] = segmentation.colour_cloud(wandb, x[0, :, :3].numpy(), colour)
    return clouds


def read(
    file: Path, config: PartConfig, signature: Signature, layout: Layout = AS_FOUND
) -> tuple[np.ndarray, np.ndarray]:
    """All points of a cloud in a file: coordinates [N, 3] as in the file, and the network's input [N, C], centred and scaled
    into the unit sphere. A mesh gives `points` of its surface."""
    from dropfold.data_scripts.readers.shapes import read_points

    found, normals = read_points(file, config.points, whole=True, layout=layout)
    cloud = normalised(found, points.centre_in(signature))
    columns = [cloud]
    if config.normals:
        if normals is None:
            raise ValueError(f"{file} has no normals, and the run was trained with them.")
        columns.append(normals)
    if config.local_shape:
        columns.append(describe_surroundings(cloud, config))
    return found, np.concatenate(columns, 1)


@torch.no_grad()
def label_cloud(
    network: nn.Module, cloud: np.ndarray, category: int, config: PartConfig, signature: Signature, votes: int
) -> np.ndarray:
    """The part of every point of a cloud [N, C]. The cloud is cut into groups of `points`, `votes` times, and the
    probabilities are added."""
    device = next(network.parameters()).device
    total = torch.zeros(len(cloud), len(signature.class_names))
    part_category, to = torch.tensor(signature.part_category), torch.tensor([category])
    x = torch.from_numpy(cloud)
    for vote in range(votes):
        for group in segmentation.groups(len(cloud), config.points, np.random.default_rng((0, vote))):
            logits = network(x[group][None].to(device), torch.tensor([category], device=device)).float().cpu()
            chosen_among = logits[0] if config.all_parts else restrict_to_family(logits[0], part_category, to)
            total.index_add_(0, torch.from_numpy(group), chosen_among.softmax(-1))
    return total.argmax(1).numpy().astype(np.uint8)
