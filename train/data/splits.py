"""Batches of a data set in memory: what a step sees is a function of (seed, epoch, step) alone.

No worker processes: sets of this size fit in memory, and a batch is cut out faster than a process wakes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dropfold.data_scripts.schemas.shape_schema import TEST, TRAIN, VALIDATION
from dropfold.data_scripts.schemas.split_folders import note_lacking
from dropfold.data_scripts.work.shipped import find_data
from dropfold.train.config.configs import Config, Signature


class Samples(Protocol):
    """A split of a file, as every task has one: its length is the number of its samples."""

    index: np.ndarray
    """The samples' places in the file."""

    def __len__(self) -> int: ...


@dataclass
class Split:
    """A split in memory: inputs, one entry a sample in each; label [n], or [n, classes] of 0 and 1; `index`, the samples'
    places in the file."""

    inputs: tuple[Tensor, ...]
    label: Tensor
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


SplitT = TypeVar("SplitT", bound=Samples)


@dataclass
class Data(Generic[SplitT]):
    """The three splits of a file, of the type that their task reads; the name of each sample; and their source."""

    train: SplitT
    validation: SplitT
    test: SplitT
    signature: Signature
    name: list[str]
    source: str
    credits: str
    checksum: str
    """Checksum of the whole file."""
    weight: Tensor | None = None
    """[classes] weights of the loss; None: all alike."""
    family: Tensor | None = None
    """[classes] numbers; the loss is then over the classes of the target's family alone. None: over all."""


Batch = tuple[tuple[Tensor, ...], Tensor]  # inputs, one entry a sample in each, and labels
Draw = Callable[[Any, Tensor, Any, torch.Generator], Batch]  # (split, chosen samples, config, generator)


def located(config: Config) -> Path:
    """`config.data`, from the current folder; or else the file that ships with the project."""
    return find_data(config.data)


def by_protocol(config: Config, split: np.ndarray, folds: Mapping[str, np.ndarray | None]) -> np.ndarray:
    """The split of each sample: the file's own, `split`, or by the fold that is held out of those of the protocol; None of
    folds that a file of this kind may have, and this one has not."""
    there = {name: fold for name, fold in folds.items() if fold is not None}
    if config.protocol == "split":
        if config.held_out is not None:
            asked = " or ".join(f"--protocol {name}" for name in there)
            raise ValueError(
                f"held_out {config.held_out} names a fold, and the protocol is the file's own split; ask for {asked}."
            )
        return split
    if config.protocol not in there:
        lacks = (
            f"; {config.data} does not say which samples belong together" if config.protocol in folds else ""
        )
        raise ValueError(
            f"protocol {config.protocol} is not for this data; there are split, {', '.join(there)}{lacks}."
        )
    fold = there[config.protocol]
    numbers = np.unique(fold).tolist()
    if config.held_out not in numbers:
        raise ValueError(
            f"protocol {config.protocol} needs the fold to test on: --held-out, one of {numbers}; got {config.held_out}."
        )
    return np.where(fold == config.held_out, TEST, TRAIN)


def parts(split: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the training, validation and test samples."""
    train, validation, test = (np.flatnonzero(split == which) for which in (TRAIN, VALIDATION, TEST))
    if config.train_on_validation:
        train, validation = np.sort(np.concatenate([train, validation])), validation[:0]
    return train, validation, test


def lacking_classes(data: Data[Any], what: str) -> list[str]:
    """A sentence for the classes of which nothing trains, or nothing tests, where each sample has one class."""
    splits = data.train, data.validation, data.test
    if not isinstance(data.train, Split) or data.train.label.dim() != 1:
        return []
    label = torch.cat([split.label for split in splits]).numpy()
    split = np.repeat([TRAIN, VALIDATION, TEST], [len(one) for one in splits])
    return note_lacking(label, split, data.signature.class_names, what)


def stratified(label: Tensor, count: int, seed: int = 0) -> Tensor:
    """Which `count` samples stand for all (or all, if there are no more), in their order: drawn at random, of each class its
    share to within one. Files are often sorted by class, so the first samples of a split are no sample of it.

    label: [n], or [n, classes] of 0 and 1, where each combination counts as a class.
    """
    n = len(label)
    if n <= count:
        return torch.arange(n, device=label.device)
    kind = np.unique(label.cpu().numpy(), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(seed).permutation(n)
    order = order[np.argsort(kind[order], kind="stable")]
    chosen = order[(2 * np.arange(count) + 1) * n // (2 * count)]  # the middles of equal parts
    return torch.from_numpy(np.sort(chosen)).to(label.device)


def spread(n: int, count: int) -> np.ndarray:
    """The numbers of at most `count` of n samples, spread over all in equal steps, for samples that have no one class."""
    return np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(int))


def batches(
    draw: Draw, split: Any, config: Config, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This rank's part `(inputs, label)` of each batch of an epoch; `draw` cuts a batch out and augments it.

    Only whole batches: the samples that are left over are others in each epoch."""
    order = torch.randperm(len(split), generator=generator(config.seed, epoch))
    mine = share(config, rank, processes)
    for step in range(len(split) // config.batch_size):
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        inputs, label = draw(split, chosen, config, generator(config.seed, epoch, step))
        yield tuple(value[mine] for value in inputs), label[mine]


def share(config: Config, rank: int, processes: int) -> slice:
    """The part of a batch that is this rank's."""
    size = config.batch_size // processes
    return slice(rank * size, (rank + 1) * size)


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by all of `numbers`."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))
