"""Blocks of rooms, cut beforehand into a file (block_schema): their batches, and what is shown of them (see `task.py`).

A batch is read from the file when it is needed, so memory does not grow with the file. Figures are over all points of all
blocks, as those published on such blocks are; a point that lies in two blocks counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.data_scripts.schemas import block_schema, splits
from dropfold.train.config.channels import Channels
from dropfold.train.config.configs import BlockConfig, Signature
from dropfold.train.data.augment import augment_channels
from dropfold.train.data.data_file import find_data_set
from dropfold.train.data.input_channels import channels_of
from dropfold.train.data.splits import Batch, Data, by_protocol, parts, spread
from dropfold.train.data.splits import batches as data_batches
from dropfold.train.scoring import metrics
from dropfold.train.scoring.metrics import Predictions
from dropfold.train.tasks import points, scenes, segmentation
from dropfold.train.tasks.section import Section
from dropfold.train.tasks.segmentation import PALETTE, compare_clouds

NOUN = SAMPLES = "blocks"
CLASSES = "classes"
SHOWN = 4  # blocks in each gallery
FILE_CHANNELS = Channels(colour=3, place=3)  # of a point in the file
describe, facts = points.describe, points.facts
scores, class_table = scenes.scores, scenes.class_table


@dataclass
class Blocks:
    """Blocks of a file, by their places in it; a block is read when it is needed."""

    file: block_schema.Blocks
    index: np.ndarray
    colour: bool

    def __len__(self) -> int:
        return len(self.index)

    def read(self, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """`(x [b, P, C], label [b, P])` of some blocks."""
        x, label = self.file.load(self.index[chosen])
        if not self.colour:
            x = np.delete(x, FILE_CHANNELS.slices["colour"], 2)
        return torch.from_numpy(x), torch.from_numpy(label).long()


def load(config: BlockConfig) -> Data[Blocks]:
    """Open `config.data` and cut it into splits; ValueError says what does not fit the config."""
    path = find_data_set(config)
    file = block_schema.read(path)
    segmentation.check_points(config, 1024)
    if config.points > file.points:
        raise ValueError(
            f"the blocks of {path} have {file.points} points, and the config asks for {config.points}; ask for "
            f"{file.points} or fewer."
        )
    split = by_protocol(config, file.split, {"area": file.area})
    if config.protocol == "area":
        _, first, member = np.unique(np.array(file.room), return_index=True, return_inverse=True)
        split = splits.carve_rooms(split[first].astype(np.uint8), scenes.VALIDATION_SHARE)[member]
    train, validation, test = (Blocks(file, index, config.colour) for index in parts(split, config))
    channels = channels_of(config)
    signature = Signature(
        file.class_names, (config.points, channels.total), channels=channels, codes=file.codes
    )
    origin = file.room, file.source, file.credits, file.checksum
    weight = None
    if config.class_weights:
        pieces = np.array_split(np.arange(len(train)), max(1, len(train) // config.batch_size))
        labels = (train.read(chosen)[1].numpy().ravel() for chosen in pieces)
        weight = scenes.class_weights(labels, len(file.class_names))
    return Data(train, validation, test, signature, *origin, weight=weight)


def samples(split: Blocks, config: BlockConfig) -> int:
    """Training blocks in an epoch."""
    return len(split)


def batches(
    split: Blocks, config: BlockConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This rank's part of each batch of an epoch: blocks in random order."""
    return data_batches(draw, split, config, epoch, rank, processes)


def draw(split: Blocks, chosen: Tensor, config: BlockConfig, generator: torch.Generator) -> Batch:
    """Training blocks, a fresh choice of `points` of each, augmented."""
    x, label = split.read(chosen.numpy())
    order = torch.stack([torch.randperm(x.shape[1], generator=generator) for _ in chosen])[:, : config.points]
    x, label = x.gather(1, order[..., None].expand(-1, -1, x.shape[2])), label.gather(1, order)
    return (augment_channels(x, channels_of(config), config.augment, generator),), label


def build(config: BlockConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config; `steps` are those of an epoch, for the noise's warm-up."""
    return points.build_segmenter(config, signature, steps)


@torch.no_grad()
def predict_split(network: nn.Module, split: Blocks, config: BlockConfig, final: bool = False) -> Predictions:
    """The class of the first `points` points of each block."""
    device, classes = next(network.parameters()).device, len(split.file.class_names)
    network.eval()
    predicted_classes, target_classes, losses = [], [], []
    for chosen in np.array_split(np.arange(len(split)), max(1, -(-len(split) // config.batch_size))):
        x, label = (value[:, : config.points] for value in split.read(chosen))
        logits = network(x.to(device)).float().cpu()
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten()) * len(label))
        predicted_classes.append(logits.argmax(-1))
        target_classes.append(label)
    predicted, target = (
        torch.cat(values).numpy().astype(np.uint8) for values in (predicted_classes, target_classes)
    )
    return {
        "predicted": predicted,
        "label": target,
        "confusion": metrics.confusion(target, predicted, classes),
        "index": split.index,
        "loss": np.array(float(torch.stack(losses).sum()) / max(1, len(split))),
    }


def galleries(config: BlockConfig, data: Data[Blocks], predictions: Predictions) -> list[Section]:
    """The worst and the best blocks beside their truth, and the figures of each room's blocks."""
    accuracy = (predictions["predicted"] == predictions["label"]).mean(1)
    order = np.argsort(accuracy, kind="stable")
    text = "Truth, prediction, and in red the points where they differ. Drag to turn."
    sections = []
    for title, shown in (("worst", order[:SHOWN]), ("best", order[::-1][:SHOWN])):
        items = [item for i in shown.tolist() for item in picture(config, data, predictions, i)]
        sections.append(Section(f"The {title} test blocks", text, items, wide=True))
    return [*sections, room_table(data, predictions)]


def picture(
    config: BlockConfig, data: Data[Blocks], predictions: Predictions, i: int
) -> list[dict[str, Any]]:
    """Test block i, for the report: z upwards."""
    x, _ = data.test.read(np.array([i]))
    cloud = segmentation.to_page(x[0, : config.points, :3].numpy())
    names = data.signature.class_names
    target, predicted = predictions["label"][i], predictions["predicted"][i]
    note = f"{100 * (target == predicted).mean():.1f} % of the points are right"
    colours = np.arange(len(names)) % len(PALETTE)
    return compare_clouds(data.name[data.test.index[i]], note, cloud, target, predicted, names, colours)


def room_table(data: Data[Blocks], predictions: Predictions) -> Section:
    """The figures of each test room's blocks."""
    rooms = np.array([data.name[i] for i in data.test.index])
    rows, head = [], ["room", NOUN]
    for room in dict.fromkeys(rooms.tolist()):
        inside = rooms == room
        matrix = metrics.confusion(
            predictions["label"][inside], predictions["predicted"][inside], len(data.signature.class_names)
        )
        figures = metrics.scene_scores(matrix).figures
        rows.append([room, f"{inside.sum():,}", *(f"{100 * value:.1f} %" for value in figures.values())])
        head = ["room", NOUN, *(metrics.in_words(name) for name in figures)]
    return Section("Each test room", head=head, rows=rows)


def sections(config: BlockConfig, data: Data[Blocks], network: Callable[[], nn.Module]) -> list[Section]:
    """Nothing more."""
    return []


def log_predictions(
    wandb: Any, config: BlockConfig, data: Data[Blocks], predictions: Predictions
) -> dict[str, Any]:
    """Turnable test blocks, predicted and true."""
    clouds = {}
    for i in spread(len(data.test), 4).tolist():
        x, _ = data.test.read(np.array([i]))
        for name in ("predicted", "label"):
            clouds[f"samples/{i}: {name}"] = segmentation.colour_cloud(
                wandb, x[0, : config.points, :3].numpy(), predictions[name][i] % len(PALETTE)
            )
    return clouds
