"""Videos: their file, their batches, their recurrent networks, and their pictures (see `dropfold.train.tasks.task`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold import models
from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.schemas import video_schema
from dropfold.models.formats import FormatSpec
from dropfold.train.config.configs import Signature, VideoConfig
from dropfold.train.data.data_file import find_data_set
from dropfold.train.data.splits import Batch, Data, Split, by_protocol, parts
from dropfold.train.data.splits import batches as data_batches
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.tasks import classification
from dropfold.train.tasks.section import ClassTable, Section, to_png

NOUN = SAMPLES = "clips"
CLASSES = "classes"
samples, scores = classification.samples, classification.scores
FRAMES_SHOWN = 8  # in a strip


def load(config: VideoConfig) -> Data[Split]:
    """Read `config.data`, take the frames that the config asks for, and cut it into splits."""
    if config.shift < 0:
        raise ValueError(f"shift must be at least 0 pixels; got {config.shift}.")
    path = find_data_set(config)
    videos = video_schema.read(path)
    frames, length = chosen_frames(videos.frames, videos.length, config, str(path))
    label = videos.label if videos.labels is None else videos.labels.astype(np.float32)
    whole = bool((length == frames.shape[1]).all())  # the network then needs no lengths

    def cut(index: np.ndarray) -> Split:
        inputs = [frames[index]] if whole else [frames[index], length[index]]
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs)
        return Split(tensors, torch.from_numpy(label[index]), index)

    split = by_protocol(config, videos.split, {"fold": videos.fold, "group-fold": videos.group_fold})
    train, validation, test = map(cut, parts(split, config))
    signature = Signature(videos.class_names, frames.shape[1:], videos.labels is not None)
    origin = videos.name, videos.source, videos.credits, videos.checksum
    return Data(train, validation, test, signature, *origin)


def chosen_frames(
    frames: np.ndarray, length: np.ndarray, config: VideoConfig, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The frames [n, frames, H, W, C] that the network sees of [n, T, H, W, C], and the number of them in each clip."""
    wanted, stored = config.frames, frames.shape[1]
    if wanted is None or wanted == stored:
        return frames, length
    if wanted > stored:
        raise ValueError(f"{name} has {stored} frames a clip and the config asks for {wanted}.")
    if config.choose == "first":
        return frames[:, :wanted], np.minimum(length, wanted)
    spread = np.floor((np.arange(wanted) + 0.5) * length[:, None] / wanted).astype(np.int64)
    time = np.where(length[:, None] >= wanted, spread, np.arange(wanted))
    return frames[np.arange(len(frames))[:, None], time], np.minimum(length, wanted)


def draw(split: Split, chosen: Tensor, config: VideoConfig, generator: torch.Generator) -> Batch:
    """Training clips, shifted, and their classes."""
    frames, *length = (value[chosen] for value in split.inputs)
    moved = shifted(frames, config.shift, generator) if config.shift else frames
    return (moved, *length), split.label[chosen]


def shifted(frames: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Clips [n, T, H, W, C], each moved by up to `most` pixels down and right (or up and left); edges are repeated."""
    n, T, H, W, _ = frames.shape
    down, right = torch.randint(-most, most + 1, (2, n, 1), generator=generator)
    rows, columns = (torch.arange(H) - down).clamp(0, H - 1), (torch.arange(W) - right).clamp(0, W - 1)
    clip, time = torch.arange(n)[:, None, None, None], torch.arange(T)[:, None, None]
    return frames[clip, time, rows[:, None, :, None], columns[:, None, None, :]]


def inputs(split: Split, config: VideoConfig) -> tuple[Tensor, ...]:
    """The clips of a split."""
    return split.inputs


def batches(
    split: Split, config: VideoConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This rank's part of each batch of an epoch: clips in random order."""
    return data_batches(draw, split, config, epoch, rank, processes)


def predict_split(network: nn.Module, split: Split, config: VideoConfig, final: bool = False) -> Predictions:
    """Logits."""
    return classification.predict_split(network, inputs(split, config), split, config)


def class_table(scores: Scores, predictions: Predictions, signature: Signature) -> ClassTable:
    """Recall and precision."""
    return classification.class_table(scores, predictions, signature, NOUN)


def build(config: VideoConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config."""
    _, height, width, channels = signature.shape
    options: dict[str, Any] = {"reset": config.reset} if config.cell == "gru" else {}
    kind = models.TensorLSTM if config.cell == "lstm" else models.TensorGRU
    specs = {name: spec for name in ("ih", "hh", "mega") if (spec := getattr(config, name)).format != "dense"}
    rnn = kind(
        height * width * channels,
        config.hidden,
        config.layers,
        **specs,
        batch_first=True,
        bidirectional=config.bidirectional,
        recurrent_dropout=config.recurrent_dropout,
        hidden_gain=config.hidden_gain,
        **options,
    )
    return models.VideoClassifier(
        rnn, len(signature.class_names), dropout=config.dropout, mean=config.mean, std=config.std
    )


def describe(config: VideoConfig) -> str:
    """The recurrence and the formats of its matrices."""

    def named(spec: FormatSpec) -> str:
        ranks = ", ".join(map(str, spec.ranks))
        return "dense" if spec.format == "dense" else f"{spec.format.upper()} of rank {ranks}"

    cell = config.cell.upper() + ("" if config.layers == 1 else f", {config.layers} layers")
    cell += ", both directions" if config.bidirectional else ""
    if config.mega.format != "dense":
        matrices = f"one {named(config.mega)} for both matrices"
    else:
        matrices = f"input {named(config.ih)}, hidden {named(config.hh)}"
    return f"{cell}, width {config.hidden}: {matrices}"


def facts(network: nn.Module) -> dict[str, Any]:
    """Parameters by kind and multiply-adds a frame, each beside the dense network's."""
    columns = {"cores": "cores", "bias": "biases", "classifier": "classifier"}
    counts = dict.fromkeys((*columns.values(), "macs", "dense_parameters", "dense_macs"), 0)
    for row in models.rnn_table(network):
        counts[columns[row["kind"]]] += row["parameters"]
        for name in ("macs", "dense_parameters", "dense_macs"):
            counts[name] += row[name]
    return counts


def read(
    file: Path, config: VideoConfig, signature: Signature, votes: int, layout: Layout = AS_FOUND
) -> tuple[Tensor, ...]:
    """A video, or frames [T, H, W, C] in an .npy, as a batch of one clip; ValueError says what is wrong with it."""
    T, height, width, channels = signature.shape
    if file.suffix == ".npy":
        if not file.is_file():
            raise ValueError(f"{file} is not there.")
        from dropfold.data_scripts.readers import npy

        frames, _ = npy.read_array(file)
    else:
        from dropfold.data_scripts.readers.decode import decode
        from dropfold.data_scripts.work.notes import say

        notes: list[str] = []
        frames = decode(file, (height, width), channels, notes)
        for note in notes:
            say(note)
    if frames.ndim != 4 or frames.shape[1:] != (height, width, channels) or not len(frames):
        raise ValueError(
            f"{file} holds an array {list(frames.shape)}, expected frames [T, {height}, {width}, {channels}], as the run "
            "was trained on."
        )
    if frames.dtype != np.uint8:
        if frames.dtype.kind != "f" or not ((frames >= 0) & (frames <= 1)).all():  # NaN is neither
            raise ValueError(
                f"{file} holds {frames.dtype}, not all from 0 to 1; expected uint8, or floating point from 0 to 1."
            )
        frames = frames.astype(np.float32)
    length = np.array([len(frames)])
    if len(frames) > T:
        shorter = VideoConfig(config.data, frames=T, choose=config.choose)
        batch, length = chosen_frames(frames[None], length, shorter, str(file))
    else:
        batch = frames[None]
    return torch.from_numpy(np.ascontiguousarray(batch)), torch.from_numpy(length)


def pictures(config: VideoConfig, data: Data[Split], shown: list[int]) -> list[dict[str, Any]]:
    """Test clips as strips of frames."""
    return [{"strip": to_png(make_strip(*(value[i].numpy() for value in data.test.inputs)))} for i in shown]


def galleries(config: VideoConfig, data: Data[Split], predictions: Predictions) -> list[Section]:
    """Right ones and wrong ones."""
    return classification.galleries(config, data, predictions, pictures, NOUN)


def sections(config: VideoConfig, data: Data[Split], network: Callable[[], nn.Module]) -> list[Section]:
    """Where the parameters are: each tensor beside the dense network's."""
    tensors = models.rnn_table(network())
    numbers = ("parameters", "dense_parameters", "macs", "dense_macs")
    total = {name: sum(row[name] for row in tensors) for name in numbers}
    rows = [
        [row["name"], " x ".join(map(str, row["shape"])), *(f"{row[name]:,}" for name in numbers)]
        for row in [*tensors, {"name": "all", "shape": (), **total}]
    ]
    head = [
        "tensor",
        "shape",
        "parameters",
        "dense: parameters",
        "multiply-adds a frame",
        "dense: multiply-adds",
    ]
    text = (
        f"{total['dense_parameters'] / max(1, total['parameters']):,.0f} times fewer parameters and "
        f"{total['dense_macs'] / max(1, total['macs']):,.1f} times fewer multiply-adds than the dense network of this "
        "width, biases and classifier counted."
    )
    return [Section("Parameters and multiply-adds by tensor", text, head=head, rows=rows)]


def make_strip(frames: np.ndarray, length: np.ndarray | None = None) -> np.ndarray:
    """Frames [T, H, W, C] side by side, spread over the clip: an image [H, ., 3]."""
    T = len(frames) if length is None else int(length)
    shown = np.unique(np.linspace(0, T - 1, min(T, FRAMES_SHOWN)).round().astype(int))
    gap = np.full((frames.shape[1], 2, 3), 255, np.uint8)
    row: list[np.ndarray] = []
    for frame in frames[shown]:
        row += [np.broadcast_to(frame, (*frame.shape[:2], 3)), gap]
    return np.concatenate(row[:-1], 1)


def log_predictions(
    wandb: Any, config: VideoConfig, data: Data[Split], predictions: Predictions
) -> dict[str, Any]:
    """The confusion matrix and test clips as strips of frames."""

    def picture(i: int) -> Any:
        return wandb.Image(make_strip(*(value[i].numpy() for value in data.test.inputs)))

    return classification.log_predictions(wandb, data, predictions, picture)
