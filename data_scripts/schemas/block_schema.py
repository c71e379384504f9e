"""The HDF5 layout of blocks: pieces of rooms with a fixed number of points, as a network takes them.

| dataset | type | shape | |
|---|---|---|---|
| area | int64 | [n] | 1 and up |
| split | uint8 | [n] | 0 train, 1 validation, 2 test; the blocks of a room are in one |
| room | UTF-8 | [n] | the room that each block is of |
| digest | UTF-8 | [n] | SHA-256 of each block's points and label |
| codes | int64 | [classes] | optional: the number of each class in the files of the source; without it 0 .. classes - 1 |
| points | float32 | [n, P, 9] | see below |
| label | uint8 | [n, P] | of each point, 0 .. classes - 1 |

The channels: x y z in metres from the block's middle, red green blue 0 .. 1, x y z as shares of the room's size.

Attributes: see `h5_file`; the task is "blocks", and the checksum covers the first five, digests included.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.schemas import h5_file, splits
from dropfold.data_scripts.schemas.h5_file import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Layout,
    Pending,
    SchemaError,
    Wrong,
)
from dropfold.data_scripts.schemas.hdf5 import open_h5

__all__ = ["SPLITS", "TEST", "TRAIN", "VALIDATION", "Blocks", "SchemaError", "Writer", "read", "writer"]

CHANNELS = 9


@dataclass(frozen=True)
class Blocks:
    """A file of blocks. What is small is in memory; `load` reads some, in any process (the file is opened for it)."""

    path: Path
    area: np.ndarray
    split: np.ndarray
    room: list[str]
    digest: list[str]
    points: int
    """P, of each block."""
    class_names: list[str]
    source: str
    credits: str
    rebuild: str
    checksum: str = ""
    codes: list[int] = field(default_factory=list)
    """The number of each class in the files of the source; of a file that was read never empty."""
    _verified: set[int] = field(default_factory=set, repr=False)

    def __len__(self) -> int:
        return len(self.area)

    def of(self, split: int) -> np.ndarray:
        """Indices of the blocks of one split."""
        return np.flatnonzero(self.split == split)

    def load(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(points [b, P, 9] float32, label [b, P] uint8)` of some blocks, each checked when it is first read."""
        points = np.empty((len(index), self.points, CHANNELS), np.float32)
        label = np.empty((len(index), self.points), np.uint8)
        advice = f"Make it anew: {self.rebuild}"
        with open_h5(self.path, *ROWS, advice=advice) as file:
            for k, i in enumerate(int(i) for i in index):
                file.advice = f"It is needed for block {i} ({self.room[i]}). {advice}"
                points[k], label[k] = file.read("points", i), file.read("label", i)
        for k, i in enumerate(int(i) for i in index):
            if i not in self._verified:
                if _digest(points[k], label[k]) != self.digest[i]:
                    raise SchemaError(
                        f"{self.path}: block {i} ({self.room[i]}) is not what was written. Make it anew: {self.rebuild}"
                    )
                self._verified.add(i)
        return points, label


def read(path: Path) -> Blocks:
    """Open and verify a file; every fault is a `SchemaError` that says what is wrong, where, and how to rebuild."""
    path = Path(path)
    arrays, class_names, provenance = h5_file.read(path, LAYOUT, "dropfold data s3dis-blocks makes one.")
    n = len(arrays["area"])
    with open_h5(path, advice=f"Make it anew: {provenance['rebuild']}") as file:
        shapes = {name: file.shape(name) if name in file else None for name in ROWS}
        kinds = {name: file.dtype(name) for name in ROWS if name in file}
    size = shapes["points"][1] if shapes["points"] and len(shapes["points"]) == 3 else 0
    expected = {"points": (n, size, CHANNELS), "label": (n, size)}
    if size < 1 or shapes != expected or kinds != ROWS:
        raise SchemaError(
            f"{path}: points and label are {shapes['points']} and {shapes['label']}, expected float32 [{n}, P, 9] and "
            f"uint8 [{n}, P]. Make it anew: {provenance['rebuild']}"
        )
    arrays |= {name: list(arrays[name]) for name in ("room", "digest")} | provenance
    codes = h5_file.take_codes(arrays, len(class_names))
    return Blocks(path=path.absolute(), points=size, class_names=class_names, codes=codes, **arrays)


@contextlib.contextmanager
def writer(
    path: Path,
    class_names: list[str],
    source: str,
    credits: str,
    rebuild: str,
    test_area: int | None = None,
    validation: float = 0.12,
    folder: Path | None = None,
    codes: Sequence[int] = (),
) -> Iterator[Writer]:
    """`with writer(...) as w: w.add(pack(...), ...)` for some blocks at a time; the file is there when that ends well.

    test_area, validation: see `splits.split_by_area`, which deals out the rooms.
    folder: where the file is made, on the disk of `path`; None: beside it.
    codes: the number of each class in the files of the source; empty: 0 .. classes - 1.
    """
    provenance = {"source": source, "credits": credits, "rebuild": rebuild}
    with contextlib.closing(Pending(Path(path), LAYOUT, folder)) as pending:
        writer = Writer(pending, class_names, provenance, test_area, validation, codes)
        yield writer
        writer.finish()


def pack(where: str, points: np.ndarray, label: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Blocks, points [k, P, 9] and label [k, P], checked and as the file holds them; `where` begins a message about them.

    This is nearly all the work of writing them. The result, a few flat arrays, can be kept, and `Writer.add` copies it.
    """
    if (row := h5_file.not_finite(points)) is not None:
        raise SchemaError(f"{where}, block {row}: its points are not finite.")
    if label.min(initial=0) < 0 or label.max(initial=0) >= classes:
        row = int(np.argmax(((label < 0) | (label >= classes)).any(1)))
        found = f"{label[row].min()} .. {label[row].max()}"
        raise SchemaError(f"{where}, block {row}: label holds {found}, expected 0 .. {classes - 1}.")
    values: dict[str, np.ndarray] = {
        "points": points.astype(np.float32, copy=False),
        "label": label.astype(np.uint8, copy=False),
    }
    digest = [_digest(*block) for block in zip(values["points"], values["label"])]
    made: dict[str, np.ndarray] = {"digest": np.array(digest, str), "size": np.array(points.shape[1])}
    for name, rows in values.items():
        packed = [h5_file.packed(row) for row in rows]
        made[name] = np.frombuffer(b"".join(packed), np.uint8)
        made[f"{name}_end"] = np.cumsum([len(row) for row in packed])
    return made


class Writer:
    """Blocks written as they come."""

    def __init__(
        self,
        pending: Pending,
        class_names: list[str],
        provenance: dict[str, str],
        test_area: int | None,
        validation: float,
        codes: Sequence[int],
    ) -> None:
        self.class_names, self.provenance, self.codes = class_names, provenance, codes
        self.test_area, self.validation = test_area, validation
        self.pending = pending
        self.room: list[str] = []
        self.area: list[int] = []
        self.digest: list[str] = []

    def add(self, blocks: dict[str, np.ndarray], room: list[str], area: list[int]) -> None:
        """Append blocks that `pack` made, and of each its room and area."""
        size = int(blocks["size"])
        for name, shape in (("points", (size, CHANNELS)), ("label", (size,))):
            rows = [row.tobytes() for row in np.split(blocks[name], blocks[f"{name}_end"][:-1])]
            self.pending.append_packed(name, rows, shape, ROWS[name])
        self.room += room
        self.area += area
        self.digest += blocks["digest"].tolist()

    def finish(self) -> None:
        """Write the datasets that have one row an entry; then the file takes its place."""
        if not self.room:
            raise SchemaError(f"{self.pending.path}: no blocks were given, expected one or more.")
        _, first, member = np.unique(np.array(self.room, dtype=str), return_index=True, return_inverse=True)
        area = np.array(self.area, dtype=np.int64)
        arrays: dict[str, Any] = {
            "area": area,
            "split": splits.split_by_area(area[first], self.test_area, self.validation)[member],
            "room": np.array(self.room, dtype=object),
            "digest": np.array(self.digest, dtype=object),
            **h5_file.store_codes(self.codes, len(self.class_names)),
        }
        h5_file.check(str(self.pending.path), LAYOUT, arrays, self.class_names, self.provenance["rebuild"])
        self.pending.finish(arrays, self.class_names, self.provenance)


def _digest(points: np.ndarray, label: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(points).tobytes() + label.tobytes()).hexdigest()


def _shape(area: np.ndarray) -> str | None:
    return None if area.ndim == 1 and len(area) else "[n] with n >= 1"


def _check(arrays: dict[str, Any], class_names: list[str], wrong: Wrong) -> None:
    if arrays["area"].min() < 1:
        raise wrong("area", arrays["area"].min(), "1 or more")
    seen: dict[str, tuple[int, int]] = {}
    for room, area, split in zip(arrays["room"], arrays["area"].tolist(), arrays["split"].tolist()):
        if seen.setdefault(room, (area, split)) != (area, split):
            raise wrong(
                f"room {room!r}", f"in areas and splits {seen[room]} and {(area, split)}", "a room in one"
            )
    h5_file.check_codes(arrays, len(class_names), wrong)


ROWS: dict[str, np.dtype[Any]] = {"points": np.dtype(np.float32), "label": np.dtype(np.uint8)}

LAYOUT = Layout(
    task="blocks",
    entries="blocks",
    types={"area": np.int64, "split": np.uint8, "room": str, "digest": str, "codes": np.int64},
    optional=("codes",),
    shaped=(),
    first_shape=_shape,
    check=_check,
    along={"codes": None},
    label=None,
)
