"""Configs that cannot be trained on their data are refused with a sentence, before anything is written.

The values themselves are in their ranges already (`dropfold.train.config.ranges`).
"""

from __future__ import annotations

from typing import Any

from dropfold.train.config.configs import BlockConfig, CloudConfig, Config, PointConfig
from dropfold.train.data.splits import Data
from dropfold.train.tasks.registry import task_of


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
    if isinstance(config, CloudConfig) and config.batch_size // processes < 2:
        raise ValueError(
            f"batch_size must be at least {2 * processes}: BatchNorm needs more than one shape in a process; got "
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
            f"{config.data} has {count} training {task.SAMPLES}, less than one batch of {config.batch_size}."
        )
    if not len(data.test):
        raise ValueError(f"{config.data} has no test {task.NOUN}, and a run ends with their scores.")
    if data.signature.multi_label and config.label_smoothing:
        raise ValueError(f"{config.data} has several labels a sample; label_smoothing must be 0 there.")
