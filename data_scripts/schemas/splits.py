"""How data are parted: into train, validation and test, by what they state or at random, and into five folds.

Entries are shapes, pictures, clips or rooms. `share` is the part of the training entries that validates. Where entries share
what a model may remember them by (a recording, a mould), groups are dealt whole; see `dropfold.data_scripts.schemas.groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dropfold.data_scripts.schemas.h5_file import FOLDS, TEST, TRAIN, VALIDATION
from dropfold.data_scripts.work.errors import SchemaError

VALIDATING = 0.15  # of each class


def split_as_stated(
    stated: Sequence[int | None],
    without: Callable[[], np.ndarray],
    carve: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """`[n]` uint8: what a data set's folders or lists state; an entry of none trains, and `carve` takes validation from
    these where none is stated. `without` makes a split where nothing is."""
    if all(split is None for split in stated):
        return without()
    split = np.array([TRAIN if split is None else split for split in stated], dtype=np.uint8)
    return split if VALIDATION in split else carve(split)


def split_classes(stated: Sequence[int | None], label: np.ndarray, seed: int = 0) -> np.ndarray:
    """`split_as_stated` of single entries: each class at random, or a share of its training entries carved."""
    return split_as_stated(
        stated,
        lambda: split_at_random(label, seed),
        lambda split: carve_validation(label, split, VALIDATING, seed),
    )


def carve_validation(label: np.ndarray, split: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """`split` with about `share` of each class's training shapes moved to validation, at least one of two or more."""
    random, split = np.random.default_rng(seed), split.copy()
    for c in np.unique(label):
        members = np.flatnonzero((label == c) & (split == TRAIN))
        if len(members) > 1:
            split[random.permutation(members)[: max(1, round(share * len(members)))]] = VALIDATION
    return split


def split_at_random(label: np.ndarray, seed: int = 0) -> np.ndarray:
    """`[n]` uint8: the split of data that bring none. Of each class of three or more about 70 % train, 15 % validate and
    15 % test; of two or one all train."""
    split = np.full(len(label), TRAIN, dtype=np.uint8)
    random = np.random.default_rng(seed)
    for c in range(int(label.max()) + 1):
        members = random.permutation(np.flatnonzero(label == c))
        share = max(1, round(0.15 * len(members))) if len(members) >= 3 else 0
        split[members[:share]] = TEST
        split[members[share : 2 * share]] = VALIDATION
    return split


def stratified_folds(label: np.ndarray, seed: int = 0) -> np.ndarray:
    """`[n]` uint8: each shape in one of five folds at random; the sizes of the folds, and of a class in them, are equal to
    within one."""
    order = np.random.default_rng(seed).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(label), np.uint8)
    fold[order] = np.arange(len(label)) % FOLDS
    return fold


def split_by_area(
    area: np.ndarray, test: int | None = None, validation: float = 0.12, seed: int = 0
) -> np.ndarray:
    """`[n]` uint8: the rooms of one area test (None: area 5, or else the last one), a share of the others validates.

    Of one area alone, a fifth of its rooms test; one room alone trains.
    """
    areas = np.unique(area)
    if test is not None and test not in areas:
        raise SchemaError(f"area {test} was asked for to test on, there are {areas.tolist()}.")
    if test is not None and len(areas) == 1:
        raise SchemaError(f"area {test} is the only one; none is left to train on.")
    if len(areas) > 1:
        chosen = test if test is not None else 5 if 5 in areas else areas[-1]
        split = np.where(area == chosen, TEST, TRAIN).astype(np.uint8)
    else:
        split = np.full(len(area), TRAIN, np.uint8)
        random = np.random.default_rng([seed, 1])
        split[random.permutation(len(area))[: round(0.2 * len(area)) or int(len(area) > 1)]] = TEST
    return carve_rooms(split, validation, seed)


def carve_rooms(split: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """`split` with about `share` of the training rooms moved to validation, at least one of two or more."""
    split, train = split.copy(), np.flatnonzero(split == TRAIN)
    if len(train) > 1 and share > 0:
        split[np.random.default_rng(seed).permutation(train)[: max(1, round(share * len(train)))]] = (
            VALIDATION
        )
    return split


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


def random_folds(n: int, seed: int = 0) -> np.ndarray:
    """`[n]` uint8: each clip in one of five folds at random, sizes equal to within one.

    These leak: clips of one recording land in training and test alike (see above).
    """
    return (np.random.default_rng(seed).permutation(n) % FOLDS).astype(np.uint8)
