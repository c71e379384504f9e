"""`dropfold predict RUN FILE... --explain`: why a run says what it says of a file, as a page, JSON, and a PLY of scores."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dropfold.data_scripts.readers.columns import Layout
from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.units import Unit, in_metres
from dropfold.data_scripts.schemas.scene_schema import Room
from dropfold.data_scripts.work import atomic
from dropfold.explain.maps.explanation import write_scores
from dropfold.explain.page.page import write_page
from dropfold.explain.run import clouds, images
from dropfold.explain.run.found import Clouds, Found
from dropfold.explain.run.images import Images, map_layer
from dropfold.explain.run.labels import explain_labels, label_blocks, label_parts
from dropfold.explain.run.videos import explain_videos
from dropfold.train.config.configs import AugmentConfig, PartConfig, SceneConfig
from dropfold.train.data.columns import UP
from dropfold.train.data.local_shape import local_shape
from dropfold.train.predict.labelling import category_of
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import parts, segmentation
from dropfold.train.tasks.registry import CLASSIFYING
from dropfold.train.tasks.scene_prediction import check_colour
from dropfold.train.tasks.scenes import OpenRoom
from dropfold.train.tasks.trained import Trained

TASKS = ("clouds", "video", "images", "parts", "scenes")
PAGE = atomic.Own("explanation of dropfold", rb"<!doctype html>", rb"<title>dropfold explanation</title>")
VALUES = atomic.Own("explanation of dropfold", rb"\{", rb'"command": "dropfold predict ')


class Targets(NamedTuple):
    """The files that are written beside a file, or in another folder: NAME-explained.html, .json and .ply."""

    page: Path
    values: Path
    points: Path

    @classmethod
    def of(cls, file: Path, folder: Path | None) -> Targets:
        """Of a file."""
        stem = (file.parent if folder is None else folder) / f"{file.stem}-explained"
        return cls(*(stem.with_name(stem.name + suffix) for suffix in (".html", ".json", ".ply")))

    def check(self) -> None:
        """Refuse to put them in the place of files that are not dropfold's."""
        for path, own in zip(self, (PAGE, VALUES, atomic.OURS), strict=True):
            atomic.check_folder(path.parent, "--explain-out")
            atomic.check_target(path, own, option="--explain-out")


def explainer(
    trained: Trained,
    files: Sequence[Path],
    folder: Path | None = None,
    *,
    category: str = "",
    unit: Unit | None = None,
    layout: Layout,
) -> Callable[[int, dict[str, Any]], str]:
    """The function that explains the i-th file, of which `row` says what is predicted; it adds the paths that it writes to
    the row, and says them in words.

    Raises:
        ValueError: a run whose files are not explained, two files of one name, or a path that is not to be replaced.
    """
    task = trained.config.task
    if task not in TASKS:
        raise ValueError(
            f"--explain is for runs on {', '.join(TASKS)}, and {trained.run} is one on {task}; leave it out."
        )
    targets = [Targets.of(file, folder) for file in files]
    for file, one in zip(files, targets):
        if targets.count(one) > 1:
            raise ValueError(
                f"{file} and another file would both be explained in {one.page}; explain them one by one, or in folders of "
                "their own with --explain-out."
            )
        one.check()

    def explain(i: int, row: dict[str, Any]) -> str:
        file, target = files[i], targets[i]
        if task in CLASSIFYING:
            found = _explain_class(trained, file, row, layout)
        else:
            found = _explain_labels(trained, file, category, unit, layout)
        paths = write(trained, file, found, target)
        row["explanation"] = [str(path) for path in paths]
        return f"; why: {', '.join(row['explanation'])}"

    return explain


def write(trained: Trained, file: Path, found: Found, target: Targets) -> list[Path]:
    """The page, the numbers and, of a cloud, the points with their scores, each whole or not at all."""
    command = shlex.join(["dropfold", "predict", str(trained.run), str(file), "--explain"])
    page = found.page | {
        "title": f"{file.name}: why {trained.config.recipe} says so",
        "lead": f"{trained.task.describe(trained.config)}. Orange speaks for the class, blue against it; a score is a part "
        "of the logit, and the terms of each bar add up to it.",
        "command": command,
    }
    atomic.make_folder(target.page.parent, "--explain-out")
    atomic.write_bytes(target.page, write_page(page).encode())
    checkpoint.save_json(target.values, found.values | {"file": str(file), "command": command})
    written = [target.page, target.values]
    if found.points is not None:
        write_scores(target.points, found.points, found.scores)
        written.append(target.points)
    return written


def _explain_class(trained: Trained, file: Path, row: dict[str, Any], layout: Layout) -> Found:
    """The predicted class and the runner-up of a shape's first sampling or of an image, or the predicted class of a clip."""
    names, network = trained.signature.class_names, trained.network
    device = next(network.parameters()).device
    read = CLASSIFYING[trained.config.task].read(file, trained.config, trained.signature, 1, layout)
    inputs = tuple(value[:1].to(device) for value in read)
    if trained.config.task == "video":
        return explain_videos(network, inputs, None, [file.name], names)
    order = torch.tensor([[names.index(name) for name in row["probabilities"]]], device=device)
    found, unknown = Found(), torch.full((1,), -1, device=device)
    if trained.config.task == "images":
        one = Images(network, inputs[0], unknown, [file.name], names, map_layer(network, inputs[0]))
        images.explain_maps(one, found, one.logits(), order, torch.zeros(1, dtype=torch.int64))
        del found.values["label"]  # a file has none
        return found
    shape = Clouds(network, inputs[0], unknown, [file.name], names)
    first, _ = clouds.explain_maps(shape, found, shape.logits(), order)
    del found.values["label"]
    found.points = inputs[0][0, :, :3].cpu().numpy()
    scores = {
        name: torch.from_numpy(found.arrays[f"scores/{name}"][0]) for name in ("runner_up", "difference")
    }
    found.scores = {"score": first.scores[0], **scores}
    return found


def _explain_labels(trained: Trained, file: Path, category: str, unit: Unit | None, layout: Layout) -> Found:
    """The labels of a shape's parts, or of one block of a scene."""
    config, signature, network = trained.config, trained.signature, trained.network
    if isinstance(config, PartConfig):
        points, cloud = parts.read(file, config, signature, layout)
        rows = segmentation.groups(len(cloud), config.points, np.random.default_rng((0, 0)))[0]
        kind = torch.tensor([category_of(category, signature)])
        x = torch.from_numpy(cloud[rows])[None]
        seen = label_parts(network, (x, kind), config, signature, [file.name])
        pos = points[rows]
    else:
        assert isinstance(config, SceneConfig)
        scene = read_scene(file, layout)
        check_colour(scene.colour, config, str(file))
        pos = np.ascontiguousarray(in_metres(file, scene.points, unit, scene.unit), np.float32)
        still = replace(config, augment=AugmentConfig(scale=(1.0, 1.0), shift=0.0))
        colour = np.zeros((len(pos), 3), np.uint8) if scene.colour is None else scene.colour
        shape = local_shape(pos - pos.min(0), UP) if config.local_shape else None
        room = OpenRoom(Room(pos - pos.min(0), colour, np.zeros(len(pos), np.uint8)), still, shape)
        x = room.block(torch.Generator().manual_seed(0))[0][None].to(next(network.parameters()).device)
        seen = label_blocks(
            network, x, [f"{file.name}, a block of {config.block:g} m"], signature.class_names
        )
        pos = x[0, :, :3].cpu().numpy()
    found = explain_labels(seen)
    found.points = pos
    rows_of = found.values["maps"]
    found.scores = {
        row["class"]: torch.from_numpy(s)
        for row, s in zip(rows_of, found.arrays["scores/predicted"], strict=True)
    }
    return found
