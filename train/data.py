"""Batches of a data set in memory: what a step sees is a function of (seed, epoch, step) alone.

No worker processes: sets of this size fit in memory, and a batch is cut out in less time than a process is woken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_scripts import schema
from data_scripts.schema import TEST, TRAIN, VALIDATION, Clouds
from train.augment import augment
from train.recipes import Config


@dataclass
class Split:
    """One split: clouds x [n, N, 3 or 6] and labels [n]; `index` are the shapes' places in the file."""

    x: Tensor
    label: Tensor
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


@dataclass
class Data:
    """The three splits of a file, and its names."""

    train: Split
    validation: Split
    test: Split
    clouds: Clouds


def load(config: Config) -> Data:
    """Read `config.data` and cut it into splits; too few points or no normals are said in a sentence."""
    path = Path(config.data)
    if not path.is_absolute() and not path.exists():
        path = Path(__file__).parent.parent / path
    clouds = schema.read(path)
    if clouds.points.shape[1] < config.points:
        raise ValueError(
            f"{path} has {clouds.points.shape[1]} points a shape and the config asks for {config.points}."
        )
    if config.normals and clouds.normals is None:
        raise ValueError(f"{path} has no normals and the config asks for them.")
    x = clouds.points if not config.normals else np.concatenate([clouds.points, clouds.normals], -1)

    def cut(index: np.ndarray) -> Split:
        return Split(torch.from_numpy(x[index]), torch.from_numpy(clouds.label[index]), index)

    train, validation, test = (clouds.of(split) for split in (TRAIN, VALIDATION, TEST))
    if config.train_on_validation:
        train, validation = np.sort(np.concatenate([train, validation])), validation[:0]
    return Data(cut(train), cut(validation), cut(test), clouds)


def steps_per_epoch(split: Split, config: Config) -> int:
    """Whole batches in an epoch; what is left over is another part of the set in each epoch."""
    return len(split) // config.batch_size


def batches(
    split: Split, config: Config, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share `(x [b, points, C], label [b])` of each augmented batch of one epoch."""
    if config.batch_size % processes:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {processes} processes; make it a multiple."
        )
    order = torch.randperm(len(split), generator=generator(config.seed, epoch))
    share = config.batch_size // processes
    mine = slice(rank * share, (rank + 1) * share)
    for step in range(steps_per_epoch(split, config)):
        draws = generator(config.seed, epoch, step)
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        x = split.x[chosen]
        if config.resample:
            places = torch.rand(x.shape[:2], generator=draws).argsort(1)[:, : config.points]
            x = x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
        else:
            x = x[:, : config.points]
        yield augment(x, config.augment, draws)[mine], split.label[chosen][mine]


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by all of `numbers`."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))
