"""Groups: samples that share what a model may remember them by (a recording, a mould), whole in one fold and one split."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dropfold.data_scripts.schemas.h5_file import FOLDS, SPLITS, TEST, TRAIN, VALIDATION, Wrong


def group_folds(group: list[str], label: np.ndarray) -> np.ndarray:
    """`[n]` uint8: five folds, every group whole in one of them, each class spread as evenly as its groups allow."""
    return _deal(group, label, np.ones(FOLDS), even=True)


def group_split(group: list[str], label: np.ndarray) -> np.ndarray:
    """`[n]` uint8: the split of data that bring none. Of each class about 3/5 train, 1/5 tests, 1/5 validates.

    Every group is whole in one split. A class of one group trains, of two trains and tests.
    """
    return np.array([TRAIN, TEST, VALIDATION], dtype=np.uint8)[_deal(group, label, np.array([3, 1, 1]))]


def carve_groups(group: list[str], label: np.ndarray, split: np.ndarray, share: float = 0.2) -> np.ndarray:
    """`split` with about `share` of each class's training samples moved to validation, groups whole."""
    split, train = split.copy(), np.flatnonzero(split == TRAIN)
    if len(train):
        part = _deal([group[i] for i in train], label[train], np.array([(1 - share) / share, 1]))
        split[train] = np.array([TRAIN, VALIDATION], dtype=np.uint8)[part]
    return split


def _deal(group: list[str], label: np.ndarray, weight: np.ndarray, even: bool = False) -> np.ndarray:
    """`[n]` uint8: the bin of each sample, where bins hold samples of each class in proportion to `weight`.

    Groups are dealt from the largest to the smallest, each to the bin that has least of its classes for its weight;
    of equals to the first, or if `even` to the one with fewest samples.
    """
    names, member = np.unique(np.asarray(group, dtype=str), return_inverse=True)
    count = np.zeros((len(names), int(label.max()) + 1))  # samples by group and class
    np.add.at(count, (member, label), 1)
    share = count / np.maximum(count.sum(0), 1)
    held, size = np.zeros((len(weight), count.shape[1])), np.zeros(len(weight))
    bin_of = np.zeros(len(names), dtype=np.uint8)
    for g in np.argsort(-count.sum(1), kind="stable"):
        crowding = (held @ count[g] / weight).round(9)
        least = np.flatnonzero(crowding == crowding.min())
        chosen = int(least[np.argmin(size[least])] if even else least[0])
        bin_of[g] = chosen
        held[chosen] += share[g]
        size[chosen] += count[g].sum()
    return bin_of[member]


def check_folds(group: Iterable[str], group_fold: np.ndarray, wrong: Wrong) -> None:
    """Raise `wrong` of folds that are none of five, and of a group that is not whole in one of them."""
    if group_fold.max() >= FOLDS:
        raise wrong("group_fold", f"up to {group_fold.max()}", f"0 .. {FOLDS - 1}")
    if found := first_apart(group, group_fold):
        name, one, other = found
        raise wrong(f"group {name!r}", f"in folds {one} and {other}", "a group in one group_fold")


def check_split(group: Iterable[str], split: np.ndarray, wrong: Wrong) -> None:
    """Raise `wrong` of a group that is not whole in one split."""
    if found := first_apart(group, split):
        name, *numbers = found
        one, other = (SPLITS[number] for number in numbers)
        raise wrong(f"group {name!r}", f"in the splits {one} and {other}", "a group in one split")


def first_apart(group: Iterable[str], part: np.ndarray) -> tuple[str, int, int] | None:
    """The first group whose samples lie in two parts, and these; None if each is whole in one."""
    seen: dict[str, int] = {}
    for name, number in zip(group, part.tolist()):
        if seen.setdefault(name, number) != number:
            return name, seen[name], number
    return None
