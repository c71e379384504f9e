"""The HDF5 layout of video data: what a file holds, how it is written, and what is checked on reading.

| dataset | type | shape | |
|---|---|---|---|
| frames | uint8 | [n, T, H, W, C] | clips, C = 1 (gray) or 3 (RGB), one HDF5 chunk a clip |
| length | int64 | [n] | 1 .. T: frames of each clip; those beyond it are zero |
| label | int64 | [n] | 0 .. classes - 1; of several labels the first |
| split | uint8 | [n] | 0 train, 1 validation, 2 test |
| fold | uint8 | [n] | 0 .. 4: random folds over clips, as the papers have them |
| group_fold | uint8 | [n] | 0 .. 4: folds that keep the clips of a group together |
| group | UTF-8 | [n] | what a clip shares with others: person, scene, source film |
| name | UTF-8 | [n] | of each clip |
| labels | uint8 | [n, classes] | optional: 0 or 1, where a clip may have several labels |

Attributes: see `dropfold.data_scripts.schemas.h5_file`; the task is "video".

Random folds over clips leak: clips cut from one recording share actor, clothes and background, so a model that
remembers the recording is right about the clip next to it in the test fold. Figures on `fold` are comparable with the
papers that used it, figures on `group_fold` are what to expect of a recording never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.schemas import groups, h5_file
from dropfold.data_scripts.schemas.h5_file import (
    FOLDS,
    SCHEMA,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Layout,
    SchemaError,
    Wrong,
)

__all__ = [
    "FOLDS",
    "SCHEMA",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "SchemaError",
    "Videos",
    "frame_size",
    "read",
    "write",
]


@dataclass(frozen=True)
class Videos:
    """A video data set in memory; the arrays are those of the file (see above). `frames` may be a memory map."""

    frames: np.ndarray
    length: np.ndarray
    label: np.ndarray
    split: np.ndarray
    fold: np.ndarray
    group_fold: np.ndarray
    group: list[str]
    name: list[str]
    class_names: list[str]
    source: str
    credits: str
    rebuild: str
    labels: np.ndarray | None = None
    checksum: str = ""

    def of(self, split: int) -> np.ndarray:
        """Indices of the clips of one split."""
        return np.flatnonzero(self.split == split)


def write(path: Path, videos: Videos) -> None:
    """Write `videos` to `path`: checked first, into a temporary file beside it, then renamed over it."""
    arrays: dict[str, Any] = {
        "frames": videos.frames,
        "length": videos.length,
        "label": videos.label,
        "split": videos.split,
        "fold": videos.fold,
        "group_fold": videos.group_fold,
        "group": np.array(videos.group, dtype=object),
        "name": np.array(videos.name, dtype=object),
    }
    if videos.labels is not None:
        arrays["labels"] = videos.labels
    provenance = {name: getattr(videos, name) for name in h5_file.PROVENANCE}
    h5_file.write(path, LAYOUT, arrays, videos.class_names, provenance)


def read(path: Path) -> Videos:
    """Read and verify a file; every fault is a `SchemaError` that says what is wrong, where, and how to rebuild."""
    missing = "dropfold data moving-furniture makes one; docs/video_data.md names the other scripts."
    arrays, class_names, provenance = h5_file.read(Path(path), LAYOUT, missing)
    arrays |= {name: list(arrays[name]) for name in ("group", "name")} | provenance
    return Videos(**arrays, class_names=class_names)


def frame_size(text: str) -> tuple[int, int]:
    """`(width, height)` of "160x120", as the scripts' --size gives it."""
    try:
        width, height = (int(word) for word in text.lower().split("x"))
    except ValueError:
        raise SchemaError(f"--size is {text!r}, expected width x height, e.g. 160x120.") from None
    if width < 1 or height < 1:
        raise SchemaError(f"--size is {text!r}, expected at least 1x1.")
    return width, height


def _shape(frames: np.ndarray) -> str | None:
    whole = frames.ndim == 5 and frames.shape[4] in (1, 3) and 0 not in frames.shape
    return None if whole else "[n, T, H, W, C] with n, T, H, W >= 1 and C = 1 or 3"


def _check(arrays: dict[str, Any], class_names: list[str], wrong: Wrong) -> None:
    frames, length, name = arrays["frames"], arrays["length"], arrays["name"]
    steps = frames.shape[1]
    if length.min() < 1 or length.max() > steps:
        first = int(np.flatnonzero((length < 1) | (length > steps))[0])
        raise wrong(f"length of clip {first} ({name[first]})", length[first], f"1 .. {steps}, the frames")
    for i in np.flatnonzero(length < steps):
        if frames[i, length[i] :].any():
            raise wrong(f"clip {i} ({name[i]})", f"not zero beyond its length {length[i]}", "zeros there")
    if arrays["fold"].max() >= FOLDS:
        raise wrong("fold", f"up to {arrays['fold'].max()}", f"0 .. {FOLDS - 1}")
    groups.check_folds(arrays["group"], arrays["group_fold"], wrong)
    if "labels" in arrays:
        labels, shape = arrays["labels"], (len(frames), len(class_names))
        if labels.shape != shape:
            raise wrong("labels' shape", labels.shape, f"{shape}, clips by classes")
        if labels.max() > 1:
            raise wrong("labels", f"up to {labels.max()}", "0 or 1")
        if not labels[np.arange(len(frames)), arrays["label"]].all():
            raise wrong("label", "not among labels", "one of each clip's labels")


def _storage(frames: np.ndarray) -> dict[str, Any]:
    # Level 1: on pixels the higher levels take several times as long and save a few per cent.
    return {"chunks": (1, *frames.shape[1:]), "compression": "gzip", "compression_opts": 1}


LAYOUT = Layout(
    task="video",
    entries="clips",
    types={
        "frames": np.uint8,
        "length": np.int64,
        "label": np.int64,
        "split": np.uint8,
        "fold": np.uint8,
        "group_fold": np.uint8,
        "group": str,
        "name": str,
        "labels": np.uint8,
    },
    optional=("labels",),
    shaped=("frames", "labels"),
    first_shape=_shape,
    check=_check,
    storage={"frames": _storage},
)
