"""Blocks of rooms that lie ready in a file (block_schema), and what is shown of them (see registry.py).

A batch is read when it is drawn, so memory does not grow with the file. Figures are over all points of all blocks, as those
published on such blocks are; a point that lies in two blocks counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.data_scripts.schemas import block_schema, scene_schema
from dropfold.train.config.configs import BlockConfig, Signature
from dropfold.train.data.augment import augment
from dropfold.train.data.splits import Batch, Data, by_protocol, located, parts
from dropfold.train.data.splits import batches as data_batches
from dropfold.train.scoring import metrics
from dropfold.train.scoring.metrics import Answers
from dropfold.train.tasks import points, scenes, segmentation
from dropfold.train.tasks.segmentation import PALETTE, compared

NOUN = SAMPLES = "blocks"
CLASSES = "classes"
SHOWN = 4  # blocks in each gallery
penalty, describe, facts = points.penalty, points.describe, points.facts
build, scores, classes, sections = scenes.build, scenes.scores, scenes.classes, scenes.sections


@dataclass
class Split:
    """Blocks of a file, by their places in it; nothing is read before it is needed."""

    file: block_schema.Blocks
    index: np.ndarray
    colour: bool

    def __len__(self) -> int:
        return len(self.index)

    def read(self, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """`(x [b, P, C], label [b, P])` of some blocks."""
        x, label = self.file.load(self.index[chosen])
        if not self.colour:
            x = np.delete(x, (3, 4, 5), 2)
        return torch.from_numpy(x), torch.from_numpy(label).long()


def load(config: BlockConfig) -> Data:
    """Open `config.data` and cut it into splits; what does not fit is said in a sentence."""
    path = located(config)
    file = block_schema.read(path)
    segmentation.enough_points(config, 1024)
    if config.points > file.points:
        raise ValueError(
            f"the blocks of {path} have {file.points} points, and the config asks for {config.points}; ask for "
            f"{file.points} or fewer."
        )
    split = by_protocol(config, file.split, {"area": file.area})
    if config.protocol == "area":
        _, first, member = np.unique(np.array(file.room), return_index=True, return_inverse=True)
        split = scene_schema.carve_rooms(split[first].astype(np.uint8), scenes.VALIDATION_SHARE)[member]
    train, validation, test = (Split(file, index, config.colour) for index in parts(split, config))
    signature = Signature(file.class_names, (config.points, 9 if config.colour else 6))
    stated = file.room, file.source, file.credits, file.checksum
    weight = None
    if config.class_weights:
        some = np.array_split(np.arange(len(train)), max(1, len(train) // config.batch_size))
        each = (train.read(chosen)[1].numpy().ravel() for chosen in some)
        weight = scenes.class_weights(each, len(file.class_names))
    return Data(train, validation, test, signature, *stated, weight=weight)


def samples(split: Split, config: BlockConfig) -> int:
    """Training blocks in an epoch."""
    return len(split)


def batches(
    split: Split, config: BlockConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Of blocks in random order."""
    return data_batches(draw, split, config, epoch, rank, processes)


def draw(split: Split, chosen: Tensor, config: BlockConfig, generator: torch.Generator) -> Batch:
    """Training blocks, a fresh choice of `points` of each, augmented."""
    x, label = split.read(chosen.numpy())
    order = torch.stack([torch.randperm(x.shape[1], generator=generator) for _ in chosen])[:, : config.points]
    x, label = x.gather(1, order[..., None].expand(-1, -1, x.shape[2])), label.gather(1, order)
    return (torch.cat([augment(x[..., :3], config.augment, generator), x[..., 3:]], 2),), label


@torch.no_grad()
def answers(network: nn.Module, split: Split, config: BlockConfig, final: bool = False) -> Answers:
    """The class of the first `points` points of each block."""
    device, count = next(network.parameters()).device, len(split.file.class_names)
    network.eval()
    said, true, losses = [], [], []
    for chosen in np.array_split(np.arange(len(split)), max(1, -(-len(split) // config.batch_size))):
        x, label = (value[:, : config.points] for value in split.read(chosen))
        logits = network(x.to(device)).float().cpu()
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten()) * len(label))
        said.append(logits.argmax(-1))
        true.append(label)
    predicted, truth = (torch.cat(values).numpy().astype(np.uint8) for values in (said, true))
    return {
        "predicted": predicted,
        "label": truth,
        "confusion": metrics.confusion(truth, predicted, count),
        "index": split.index,
        "loss": np.array(float(torch.stack(losses).sum()) / max(1, len(split))),
    }


def galleries(config: BlockConfig, data: Data, answered: Answers) -> list[dict[str, Any]]:
    """The worst and the best blocks beside their truth, and the figures of each room's blocks."""
    right = (answered["predicted"] == answered["label"]).mean(1)
    order = np.argsort(right, kind="stable")
    text = "Truth, prediction, and in red the points where they differ. Drag to turn."
    found: list[dict[str, Any]] = []
    for title, places in (("worst", order[:SHOWN]), ("best", order[::-1][:SHOWN])):
        items = [item for i in places.tolist() for item in picture(config, data, answered, i)]
        found.append({"title": f"The {title} test blocks", "text": text, "items": items, "wide": True})
    return [*found, room_table(data, answered)]


def picture(config: BlockConfig, data: Data, answered: Answers, i: int) -> list[dict[str, Any]]:
    """Test block i, for the report: z upwards."""
    x, _ = data.test.read(np.array([i]))
    cloud = segmentation.standing(x[0, : config.points, :3].numpy())
    names = data.signature.class_names
    shown = answered["label"][i], answered["predicted"][i]
    note = f"{100 * (shown[0] == shown[1]).mean():.1f} % of the points are right"
    return compared(
        data.name[data.test.index[i]], note, cloud, *shown, names, np.arange(len(names)) % len(PALETTE)
    )


def room_table(data: Data, answered: Answers) -> dict[str, Any]:
    """Of the blocks of each test room, the figures."""
    rooms = np.array([data.name[i] for i in data.test.index])
    rows, head = [], ["room", NOUN]
    for room in dict.fromkeys(rooms.tolist()):
        of = rooms == room
        matrix = metrics.confusion(
            answered["label"][of], answered["predicted"][of], len(data.signature.class_names)
        )
        figures = metrics.scene_scores(matrix).figures
        rows.append([room, f"{of.sum():,}", *(f"{100 * value:.1f} %" for value in figures.values())])
        head = ["room", NOUN, *(metrics.in_words(name) for name in figures)]
    return {"title": "Each test room", "text": "", "head": head, "rows": rows}


def tracked(wandb: Any, config: BlockConfig, data: Data, answered: Answers) -> dict[str, Any]:
    """Turnable test blocks, predicted and true."""
    sent = {}
    for i in range(min(4, len(data.test))):
        x, _ = data.test.read(np.array([i]))
        for name in ("predicted", "label"):
            sent[f"samples/{i}: {name}"] = segmentation.coloured(
                wandb, x[0, : config.points, :3].numpy(), answered[name][i] % len(PALETTE)
            )
    return sent
