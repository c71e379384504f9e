"""Equal entries on both sides of a split, which make its scores flatter: they are kept, and said."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dropfold.data_scripts.schemas.h5_file import TEST, TRAIN
from dropfold.data_scripts.work.folders import in_number, name_some, shorten
from dropfold.data_scripts.work.notes import say

SHOWN = 3  # pairs that the sentence names


def digest_of(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def digests_of(rows: Iterable[np.ndarray]) -> list[bytes]:
    """SHA-256 of each row."""
    return [hashlib.sha256(np.ascontiguousarray(row).data).digest() for row in rows]


def note_copies(
    digest: Sequence[Hashable], split: np.ndarray, name: Sequence[str], one: str, more: str
) -> list[str]:
    """A sentence if entries that test equal others that train or validate, by their digests. one, more: entries in words."""
    known = {digest[i]: i for i in np.flatnonzero(split != TEST)[::-1].tolist()}
    shared = [(i, known[digest[i]]) for i in np.flatnonzero(split == TEST).tolist() if digest[i] in known]
    if not shared:
        return []
    pairs = name_some([f"{shorten(name[i])} -> {shorten(name[j])}" for i, j in shared], SHOWN)
    single = len(shared) == 1
    seen = "training" if all(split[j] == TRAIN for _, j in shared) else "training or validation"
    return [
        f"{in_number(len(shared), one, more)} that test{'s' * single} {'is' if single else 'are'} known from {seen}, "
        f"which flatters the scores: {pairs}"
    ]


def say_copies(
    arrays: Iterable[np.ndarray],
    split: np.ndarray,
    name: Sequence[str],
    one: str = "shape",
    more: str = "shapes",
) -> None:
    """Say which entries that test have the very numbers of others that train or validate: points, frames or pixels."""
    for note in note_copies(digests_of(arrays), split, name, one, more):
        say(note)
