"""Configs that cannot be trained on their data are refused with a sentence, before anything is written.

The values themselves are in their ranges already (`dropfold.train.config.ranges`).
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dropfold.models.layers.tensor_linear import Mega
from dropfold.train.config.configs import (
    BlockConfig,
    CloudConfig,
    Config,
    ImageConfig,
    PointConfig,
    VideoConfig,
)
from dropfold.train.data.splits import Data
from dropfold.train.tasks.registry import task_of

IDLE_SHARE = 0.15  # of the rows of a grid that no number of a frame and no hidden unit uses, without a word


def check(config: Config, data: Data[Any], processes: int = 1) -> None:
    """Refuse a config that cannot be trained on these data.

    Raises:
        ValueError: options that contradict one another or the data, or data that are too few.
    """
    task = task_of(config)
    if config.lr_floor > config.lr:
        raise ValueError(
            f"lr_floor {config.lr_floor:g} is above lr {config.lr:g}: the rate would never fall; make it smaller."
        )
    if config.batch_size % processes:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {processes} processes; make it a multiple."
        )
    if isinstance(config, PointConfig) and config.task != "clouds" and config.augment.point_dropout:
        raise ValueError(
            "point_dropout puts other points in the place of some, whose labels would no longer be theirs; it must be 0 "
            f"where each point has a label. Got {config.augment.point_dropout}."
        )
    if isinstance(config, PointConfig) and config.network == "dgcnn" and config.k > config.points:
        raise ValueError(f"k must be at most the {config.points} points of a sample; got {config.k}.")
    if isinstance(config, CloudConfig | ImageConfig) and config.batch_size // processes < 2:
        raise ValueError(
            f"batch_size must be at least {2 * processes}: BatchNorm needs more than one {task.NOUN[:-1]} in a process; got "
            f"{config.batch_size}."
        )
    if isinstance(config, BlockConfig) and config.augment.up != "z":
        raise ValueError(f"augment.up must be z for rooms, which stand along it; got {config.augment.up}.")
    if isinstance(config, BlockConfig) and config.stride > config.block:
        raise ValueError(
            f"stride {config.stride} leaves points between blocks of {config.block}; it must be no longer."
        )
    if len(data.signature.class_names) < 2 and not data.signature.multi_label:
        raise ValueError(
            f"{config.data} has one class, {data.signature.class_names[0]}: nothing to tell apart."
        )
    if (count := task.samples(data.train, config)) < config.batch_size:
        raise ValueError(
            f"{config.data} has {count} training {task.SAMPLES}, less than one batch of {config.batch_size}; "
            f"{_smaller_batch(count, config, processes)}."
        )
    if isinstance(config, VideoConfig):
        _check_frames(config, data.signature.shape)
    if not len(data.test):
        raise ValueError(f"{config.data} has no test {task.NOUN}, and a run ends with their scores.")
    if data.signature.multi_label and config.label_smoothing:
        raise ValueError(f"{config.data} has several labels a sample; label_smoothing must be 0 there.")


def _smaller_batch(count: int, config: Config, processes: int) -> str:
    """What to do about fewer samples than a batch has."""
    least = 2 * processes if isinstance(config, CloudConfig | ImageConfig) else processes
    fitting = count // processes * processes
    if fitting < least:
        return f"give at least {least} to train on"
    return f"give --batch-size {fitting}{' or less' * (fitting > least)}, or more {task_of(config).SAMPLES}"


def _check_frames(config: VideoConfig, shape: tuple[int, ...]) -> None:
    """Refuse frames of another size than the input format's modes multiply to."""
    size, product = math.prod(shape[1:]), math.prod(config.ih.in_modes)
    if config.ih.format != "dense" and product != size:
        raise ValueError(
            f"the frames of {config.data} are {_frame_words(shape)}, and --ih.in-modes {_shown(config.ih.in_modes)} "
            f"multiply to {product:,}. Give factors of {size:,}, or make the data set anew with frames of that size."
        )


def note_grid(network: nn.Module, config: Config, shape: tuple[int, ...]) -> str | None:
    """A note on frames that are of another size than the grid of a mega matrix was made for; None if they fit."""
    if not isinstance(config, VideoConfig) or config.mega.format == "dense":
        return None
    mega: Any = next(module for module in network.modules() if isinstance(module, Mega))
    (_, rows, _), (_, columns, _) = mega.weight.kron_shapes()
    row = shape[2] * shape[3]  # of a frame
    idle, apart = rows - mega.x_rows - mega.h_rows, columns % row and row % columns
    if not apart and idle <= IDLE_SHARE * rows:
        return None
    modes = f"--mega.in-modes {_shown(config.mega.in_modes)}"
    needed = math.ceil(math.prod(shape[1:]) / row) + mega.hidden_size // math.gcd(mega.hidden_size, row)
    return (
        f"note: {modes} make a grid of {rows} rows of {columns}, which is not of these frames, {_frame_words(shape)}: they "
        f"fill {mega.x_rows} of its rows and the hidden state {mega.h_rows}, and {idle} learn nothing"
        f"{f'; a row of the grid is no row of a frame ({row} numbers)' if apart else ''}. Modes whose last ones multiply to "
        f"{row} and whose first ones to at least {needed} fit."
    )


def _frame_words(shape: tuple[int, ...]) -> str:
    _, height, width, channels = shape
    return f"{height} x {width} x {channels} = {height * width * channels:,} numbers"


def _shown(modes: tuple[int, ...]) -> str:
    return " ".join(map(str, modes))
