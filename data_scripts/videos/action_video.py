"""`dropfold data action-video action_video_16x60x80.npz`: makes data/local/action_video.h5.

566 real motions (20 actions of 10 people, seen as skeletons by a depth camera) drawn as 16 gray frames of 60 x 80
pixels; for research use only, the file stays in data/local, which is not committed. The source's split is kept: odd
people train, even people test; the training people 7 and 9 validate. A group is a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.schemas import video_schema
from dropfold.data_scripts.schemas.copies import say_copies
from dropfold.data_scripts.schemas.splits import group_folds, random_folds
from dropfold.data_scripts.schemas.video_schema import (
    TEST,
    TRAIN,
    VALIDATION,
    SchemaError,
    Videos,
)

VALIDATING = (7, 9)


@dataclass
class Options:
    """Make the action-video data set."""

    source: Annotated[Path, tyro.conf.Positional]
    """action_video_16x60x80.npz."""
    out: Path = Path("data/local/action_video.h5")
    """The file to write."""


def convert(source: Path) -> Videos:
    """The clips of the source as a data set."""
    arrays = npz.load_arrays(source, ("x", "label", "subject", "train", "classes"))
    n = len(arrays["x"]) if arrays["x"].ndim == 4 else 0
    if n == 0 or arrays["x"].dtype != np.uint8:
        raise SchemaError(
            f"{source}: x is {arrays['x'].dtype} {arrays['x'].shape}, expected uint8 [clips, frames, height, width]."
        )
    for name, kinds, what in (
        ("label", "iu", "whole"),
        ("subject", "iu", "whole"),
        ("train", "b", "boolean"),
    ):
        if arrays[name].shape != (n,) or arrays[name].dtype.kind not in kinds:
            raise SchemaError(
                f"{source}: {name} is {arrays[name].dtype} {arrays[name].shape}, expected {what} [{n}], one a clip."
            )
    names = [str(name) for name in arrays["classes"].ravel()]
    label, person = arrays["label"].astype(np.int64), arrays["subject"]
    if label.min() < 0 or label.max() >= len(names):
        raise SchemaError(
            f"{source}: label is {label.min()} .. {label.max()}, expected one of the {len(names)} classes."
        )
    split = np.where(arrays["train"], np.where(np.isin(person, VALIDATING), VALIDATION, TRAIN), TEST)
    group = [f"person {p:02d}" for p in person]
    titles = [f"{group[i]}, {names[label[i]]}, clip {i}" for i in range(n)]
    say_copies(arrays["x"], split, titles, "clip", "clips")
    return Videos(
        frames=arrays["x"][..., None],
        length=np.full(len(label), arrays["x"].shape[1], dtype=np.int64),
        label=label,
        split=split.astype(np.uint8),
        fold=random_folds(len(label)),
        group_fold=group_folds(group, label),
        group=group,
        name=titles,
        class_names=names,
        source="20 actions of 10 people, skeletons of a depth camera drawn as gray frames",
        credits="research use only; not to be redistributed",
        rebuild="dropfold data action-video action_video_16x60x80.npz",
    )


def main(options: Options) -> None:
    videos = convert(options.source)
    video_schema.write(options.out, videos)
    print(f"{options.out}: {[len(videos.of(s)) for s in range(3)]} clips to train, validate and test")
