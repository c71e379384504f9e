"""Rooms: their file, blocks cut from them, and what is shown of them (see `dropfold.train.tasks.task`).

An epoch goes through the rooms in random order, a pool of them at a time (`pool_points` bounds their points); each room has
blocks in proportion to its points, and the blocks of a pool come in random order. A room is read before its first block and
freed after its last one: once in an epoch. A block is a function of (seed, epoch, its number).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.data_scripts.schemas import scene_schema, splits
from dropfold.data_scripts.schemas.scene_schema import Room, Scenes
from dropfold.train.config.configs import AugmentConfig, SceneConfig, Signature
from dropfold.train.data.augment import augment_channels
from dropfold.train.data.columns import UP, Columns, channels
from dropfold.train.data.data_file import find_data_set
from dropfold.train.data.input_channels import channels_of
from dropfold.train.data.local_shape import local_shape
from dropfold.train.data.splits import Batch, Data, by_protocol, generator, parts, share
from dropfold.train.scoring import metrics
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.tasks import points, segmentation
from dropfold.train.tasks.scene_prediction import label_points, progress
from dropfold.train.tasks.section import ClassTable, Section
from dropfold.train.tasks.segmentation import PALETTE

NOUN, SAMPLES, CLASSES = "rooms", "blocks", "classes"
SHOWN = 3  # rooms in the report
TRIES = 16  # random centres of a block, until one has enough points
VALIDATION_SHARE = 0.12
describe, facts = points.describe, points.facts


@dataclass
class Rooms:
    """Rooms of a file, by their places in it; a room is read when it is needed."""

    scenes: Scenes
    index: np.ndarray
    kept: dict[int, Batch] = field(default_factory=dict, repr=False)
    """Fixed blocks, by their number."""
    shapes: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    """`local_shape` of rooms, by their index in the split."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sizes(self) -> np.ndarray:
        """Points of each room."""
        return self.scenes.sizes[self.index]

    def open(self, i: int, config: SceneConfig) -> OpenRoom:
        """Room i of the split. Its `local_shape` is kept for the next epoch if all rooms together fit into a pool."""
        room, shape = self.scenes.room(int(self.index[i])), self.shapes.get(i)
        if config.local_shape and shape is None:
            shape = local_shape(room.points, UP)
            if self.sizes.sum() <= config.pool_points:
                self.shapes[i] = shape
        return OpenRoom(room, config, shape if config.local_shape else None)


class OpenRoom:
    """A room in memory, ready for blocks."""

    def __init__(self, room: Room, config: SceneConfig, shape: np.ndarray | None = None) -> None:
        self.room, self.config, self.shape = room, config, shape
        self.columns = Columns(room.points[:, :2], config.block / 2)
        self.highest = room.points.max(0)

    def block(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`(x [points, C], label [points])` of a column around a random point."""
        config, half = self.config, self.config.block / 2
        best, centre = np.empty(0, np.int64), np.zeros(2)
        for point in torch.randint(len(self.room.points), (TRIES,), generator=generator).tolist():
            middle = self.room.points[point, :2].astype(np.float64)
            inside = self.columns.inside(middle - half, middle + half)
            if len(inside) > len(best):
                best, centre = inside, middle
            if len(best) > config.fewest:
                break
        order = torch.randperm(len(best), generator=generator)
        if config.points > len(best):  # too few: the rest are random repetitions
            more = torch.randint(len(best), (config.points - len(best),), generator=generator)
            order = torch.cat([order, more])
        rows = self.columns.order[best[order[: config.points].numpy()]]
        colour = self.room.colour[rows] if config.colour else None
        shape = None if self.shape is None else self.shape[rows]
        x = torch.from_numpy(channels(self.room.points[rows], colour, centre, self.highest, shape))
        x = augment_channels(x[None], channels_of(config), config.augment, generator)[0]
        return x, torch.from_numpy(self.room.label[rows]).long()


def load(config: SceneConfig) -> Data[Rooms]:
    """Open `config.data` and cut it into splits; ValueError says what does not fit the config."""
    path = find_data_set(config)
    scenes = scene_schema.read(path)
    segmentation.check_points(config, 1024)
    split = by_protocol(config, scenes.split, {"area": scenes.area})
    if config.protocol == "area":
        split = splits.carve_rooms(split.astype(np.uint8), VALIDATION_SHARE)
    train, validation, test = (Rooms(scenes, index) for index in parts(split, config))
    seen = channels_of(config)
    signature = Signature(scenes.class_names, (config.points, seen.total), channels=seen, codes=scenes.codes)
    origin = scenes.name, scenes.source, scenes.credits, scenes.checksum
    weight = None
    if config.class_weights:
        labels = (scenes.room(i).label for i in train.index.tolist())
        weight = class_weights(labels, len(scenes.class_names))
    return Data(train, validation, test, signature, *origin, weight=weight)


def class_weights(labels: Iterable[np.ndarray], classes: int) -> Tensor:
    """[classes]: (points of the largest class / points of the class)^(1/3) over all `labels`; 1 for an empty class."""
    counts = sum(
        (np.bincount(label, minlength=classes) for label in labels), start=np.zeros(classes, np.int64)
    )
    weight = np.where(counts > 0, (counts.max() / np.maximum(1, counts)) ** (1 / 3), 1.0)
    return torch.from_numpy(weight.astype(np.float32))


def samples(split: Rooms, config: SceneConfig) -> int:
    """Blocks in an epoch."""
    return config.blocks or int(split.sizes.sum() * config.sample_rate / config.points)


def slots(split: Rooms, config: SceneConfig, epoch: int) -> np.ndarray:
    """The room of each block of an epoch, in order, as an index into the split."""
    random = np.random.default_rng((config.seed, epoch))
    exact = samples(split, config) * split.sizes / max(1, split.sizes.sum())
    counts = np.floor(exact).astype(np.int64)
    rest = samples(split, config) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    order = random.permutation(len(split))
    pool = (np.cumsum(split.sizes[order]) - 1) // config.pool_points
    return np.concatenate(
        [random.permutation(np.repeat(order[pool == p], counts[order[pool == p]])) for p in np.unique(pool)]
    )


def batches(
    split: Rooms, config: SceneConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This rank's part of each batch of an epoch: blocks, in the order that the module describes."""
    order, size = slots(split, config, epoch), config.batch_size
    mine = share(config, rank, processes)
    steps = [np.arange(step * size, (step + 1) * size)[mine] for step in range(len(order) // size)]
    last = {int(order[slot]): slot for step in steps for slot in step}
    rooms: dict[int, OpenRoom] = {}
    for step in steps:
        blocks = []
        for slot in step.tolist():
            room = int(order[slot])
            if room not in rooms:
                rooms[room] = split.open(room, config)
            blocks.append(rooms[room].block(generator(config.seed, epoch, slot)))
            if last[room] == slot:
                del rooms[room]
        x, label = (torch.stack(values) for values in zip(*blocks, strict=True))
        yield (x,), label


def fixed(split: Rooms, config: SceneConfig) -> Batch:
    """`validation_blocks` blocks of a split, not augmented, the same for all seeds and epochs."""
    if config.validation_blocks not in split.kept:
        still = AugmentConfig(scale=(1.0, 1.0), shift=0.0)
        count = config.validation_blocks
        plain = replace(config, seed=0, blocks=count, batch_size=count, augment=still)
        split.kept[count] = next(batches(split, plain, 0))
    return split.kept[config.validation_blocks]


def build(config: SceneConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config; `steps` are those of an epoch, for the noise's warm-up."""
    return points.build_segmenter(config, signature, steps)


@torch.no_grad()
def predict_split(network: nn.Module, split: Rooms, config: SceneConfig, final: bool = False) -> Predictions:
    """While training, on fixed blocks; after the last epoch, for every point of every room."""
    if final:
        return predict_rooms(network, split, config)
    (x,), label = fixed(split, config)
    device, classes = next(network.parameters()).device, len(split.scenes.class_names)
    network.eval()
    matrix, losses = np.zeros((classes, classes), np.int64), []
    for start in range(0, len(x), config.batch_size):
        batch = slice(start, start + config.batch_size)
        logits = network(x[batch].to(device)).float().cpu()
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), label[batch].flatten()) * len(logits))
        matrix += metrics.confusion(label[batch].numpy(), logits.argmax(-1).numpy(), classes)
    return {"confusion": matrix, "loss": np.array(float(torch.stack(losses).sum()) / len(x))}


def predict_rooms(network: nn.Module, split: Rooms, config: SceneConfig) -> Predictions:
    """Each room labelled as `scene_prediction` does: predicted, the labels of all rooms in their order; ptr, where each room
    begins; the confusion matrix of each room, and of all."""
    classes = len(split.scenes.class_names)
    predicted, matrices = [], []
    with progress("labelling rooms", int(split.sizes.sum())) as advance:
        for i in split.index.tolist():
            room = split.scenes.room(i)
            predicted.append(label_points(network, room.points, room.colour, config, classes, advance))
            matrices.append(metrics.confusion(room.label, predicted[-1], classes))
    return {
        "predicted": np.concatenate(predicted),
        "ptr": np.concatenate([[0], np.cumsum(split.sizes)]),
        "confusions": np.stack(matrices),
        "confusion": np.sum(matrices, 0),
        "index": split.index,
        "loss": np.array(np.nan),
    }


def scores(predictions: Predictions, signature: Signature) -> Scores:
    """The figures of predictions."""
    return metrics.scene_scores(predictions["confusion"], float(predictions["loss"]))


def class_table(scores: Scores, predictions: Predictions, signature: Signature) -> ClassTable:
    """IoU, recall and precision of each class, and the confusion matrix in per cent of the truth."""
    matrix = predictions["confusion"]
    target, predicted, hit = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    recall, precision = metrics.ratio(hit, target), metrics.ratio(hit, predicted)
    rows = [
        [name, int(target[c]), float(scores.by_class[c]), float(recall[c]), float(precision[c])]
        for c, name in enumerate(signature.titles)
    ]
    percent = np.round(100 * matrix / np.maximum(1, target[:, None])).astype(int)
    head = ["class", "points", "IoU", "recall", "precision"]
    return ClassTable(head, rows, percent.tolist(), "per cent of the points of a row")


def galleries(config: SceneConfig, data: Data[Rooms], predictions: Predictions) -> list[Section]:
    """The worst rooms and the best one beside their truth, and each room's figures."""
    figures = [metrics.scene_scores(matrix).figures for matrix in predictions["confusions"]]
    order = np.argsort([room["mean_iou"] for room in figures], kind="stable").tolist()
    shown = list(dict.fromkeys([*order[: SHOWN - 1], order[-1]]))
    names = data.signature.class_names
    items = []
    for i in shown:
        note = ", ".join(f"{metrics.in_words(k)} {100 * v:.1f} %" for k, v in list(figures[i].items())[:2])
        items += picture(data, predictions, i, note)
    legend = [[name, PALETTE[c % len(PALETTE)]] for c, name in enumerate(names)]
    text = "Truth, prediction, and in red the points where they differ; ceilings are left out of the picture. Drag to turn."
    rows = [
        [
            data.name[data.test.index[i]],
            f"{data.test.sizes[i]:,}",
            *(f"{100 * v:.1f} %" for v in figures[i].values()),
        ]
        for i in range(len(figures))
    ]
    head = ["room", "points", *(metrics.in_words(name) for name in figures[0])]
    title = "The worst test rooms, and the best"
    return [
        Section(title, text, items, wide=True, tilt=0.9, legend=legend),
        Section("Each test room", head=head, rows=rows),
    ]


def picture(data: Data[Rooms], predictions: Predictions, i: int, note: str) -> list[dict[str, Any]]:
    """Test room i, for the report: z upwards, without its ceiling."""
    room, names = data.test.scenes.room(int(data.test.index[i])), data.signature.class_names
    predicted = predictions["predicted"][predictions["ptr"][i] : predictions["ptr"][i + 1]]
    shown = np.ones(len(predicted), bool)
    if "ceiling" in names:
        shown = room.label != names.index("ceiling")
        shown = shown if shown.any() else ~shown
    cloud = segmentation.to_page(room.points[shown])
    colours = np.arange(len(names)) % len(PALETTE)
    title = data.name[data.test.index[i]]
    items = segmentation.compare_clouds(
        title, note, cloud, room.label[shown], predicted[shown], names, colours
    )
    return [{key: value for key, value in item.items() if key != "legend"} for item in items]


def sections(config: SceneConfig, data: Data[Rooms], network: Callable[[], nn.Module]) -> list[Section]:
    """Nothing more."""
    return []


def log_predictions(
    wandb: Any, config: SceneConfig, data: Data[Rooms], predictions: Predictions
) -> dict[str, Any]:
    """The first test room, predicted and true."""
    room = data.test.scenes.room(int(data.test.index[0]))
    chosen = np.random.default_rng(0).permutation(len(room.points))[: segmentation.POINTS_SHOWN]
    predicted = predictions["predicted"][: len(room.points)]
    return {
        f"samples/{name}": segmentation.colour_cloud(
            wandb, room.points[chosen], labels[chosen] % len(PALETTE)
        )
        for name, labels in (("predicted", predicted), ("true", room.label))
    }
