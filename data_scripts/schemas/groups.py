"""Groups: samples that share what a model may remember them by (a recording, a mould), whole in one fold and one split."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dropfold.data_scripts.schemas.h5_file import FOLDS, SPLITS, Wrong


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
