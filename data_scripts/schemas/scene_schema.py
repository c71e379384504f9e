"""The HDF5 layout of scenes: rooms of any size, written and read one at a time.

| dataset | type | shape | |
|---|---|---|---|
| area | int64 | [n] | 1 and up: the building part of each room, by which folds are made |
| split | uint8 | [n] | 0 train, 1 validation, 2 test |
| name | UTF-8 | [n] | of each room |
| ptr | int64 | [n + 1] | rows ptr[i] .. ptr[i + 1] are room i |
| origin | float64 | [n, 3] | metres; what was taken from each room's coordinates, their minimum |
| digest | UTF-8 | [n] | SHA-256 of each room's points, colour and label |
| codes | int64 | [classes] | optional: the number of each class in the files of the source; without it 0 .. classes - 1 |
| points | float32 | [M, 3] | metres, each room from its minimum |
| colour | uint8 | [M, 3] | red, green, blue |
| label | uint8 | [M] | of each point, 0 .. classes - 1 |

Attributes: see `h5_file`; the task is "scenes", and the checksum covers the first seven, digests included. A
room is checked against its digest when it is first read, so that a file of gigabytes opens at once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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

__all__ = [
    "SPLITS", "TEST", "TRAIN", "VALIDATION", "Room", "Scenes", "SchemaError", "Writer", "read", "writer",
]  # fmt: skip

ROWS = {"points": (np.float32, (3,)), "colour": (np.uint8, (3,)), "label": (np.uint8, ())}
CHUNK = 16384


class Room(NamedTuple):
    """One room: points [m, 3] float32 in metres from their minimum, colour [m, 3] uint8, label [m] uint8."""

    points: np.ndarray
    colour: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Scenes:
    """A file of scenes. What is small is in memory; `room` reads one, in any process (the file is opened for it)."""

    path: Path
    name: list[str]
    area: np.ndarray
    split: np.ndarray
    ptr: np.ndarray
    origin: np.ndarray
    digest: list[str]
    class_names: list[str]
    source: str
    credits: str
    rebuild: str
    checksum: str = ""
    codes: list[int] = field(default_factory=list)
    """The number of each class in the files of the source; of a file that was read never empty."""
    _verified: set[int] = field(default_factory=set, repr=False)

    def __len__(self) -> int:
        return len(self.name)

    @property
    def sizes(self) -> np.ndarray:
        """[n]: points of each room."""
        return np.diff(self.ptr)

    def of(self, split: int) -> np.ndarray:
        """Indices of the rooms of one split."""
        return np.flatnonzero(self.split == split)

    def room(self, i: int) -> Room:
        """Room i, checked when it is first read; a `SchemaError` names the file and the room."""
        rows = slice(int(self.ptr[i]), int(self.ptr[i + 1]))
        advice = f"It is needed for room {i} ({self.name[i]}). Make it anew: {self.rebuild}"
        with open_h5(self.path, *ROWS, advice=advice) as file:
            room = Room(*(file.read(name, rows) for name in ROWS))
        if i not in self._verified:
            if _digest(room) != self.digest[i]:
                raise SchemaError(
                    f"{self.path}: room {i} ({self.name[i]}) is not what was written. Make it anew: {self.rebuild}"
                )
            self._verified.add(i)
        return room


def read(path: Path) -> Scenes:
    """Open and verify a file; every fault is a `SchemaError` that says what is wrong, where, and how to rebuild."""
    path = Path(path)
    missing = "dropfold data rooms and dropfold data s3dis make one; docs/scene_data.md says how."
    arrays, class_names, provenance = h5_file.read(path, LAYOUT, missing)
    with open_h5(path, advice=f"Make it anew: {provenance['rebuild']}") as file:
        for name, (kind, shape) in ROWS.items():
            expected = (kind, (int(arrays["ptr"][-1]), *shape))
            if name not in file:
                raise file.wrong(f": {name} is not there, expected {np.dtype(kind).name} {expected[1]}.")
            file.require(name)
            found = (file.dtype(name), file.shape(name))
            if found != expected:
                raise file.wrong(
                    f": {name} is {found[0]} {found[1]}, expected {np.dtype(kind).name} {expected[1]}."
                )
    arrays |= {name: list(arrays[name]) for name in ("name", "digest")} | provenance
    codes = h5_file.take_codes(arrays, len(class_names))
    return Scenes(path=path.absolute(), class_names=class_names, codes=codes, **arrays)


@contextlib.contextmanager
def writer(
    path: Path,
    class_names: list[str],
    source: str,
    credits: str,
    rebuild: str,
    folder: Path | None = None,
    codes: Sequence[int] = (),
) -> Iterator[Writer]:
    """`with writer(...) as w: w.add(...)` for each room; the file is there when the block has ended well, or not at all.

    folder: where it is made, on the disk of `path`; None: beside it.
    codes: the number of each class in the files of the source; empty: 0 .. classes - 1.
    """
    provenance = {"source": source, "credits": credits, "rebuild": rebuild}
    with contextlib.closing(Pending(Path(path), LAYOUT, folder)) as pending:
        writer = Writer(pending, class_names, provenance, codes)
        yield writer
        writer.finish()


class Writer:
    """Rooms written one after the other: no more than one is in memory."""

    def __init__(
        self, pending: Pending, class_names: list[str], provenance: dict[str, str], codes: Sequence[int]
    ) -> None:
        self.class_names, self.provenance, self.codes = class_names, provenance, codes
        self.pending = pending
        self.name: list[str] = []
        self.area: list[int] = []
        self.split: list[int | None] = []
        self.size: list[int] = []
        self.origin: list[np.ndarray] = []
        self.digest: list[str] = []

    def add(
        self,
        name: str,
        area: int,
        points: np.ndarray,
        colour: np.ndarray,
        label: np.ndarray,
        split: int | None = None,
        taken: np.ndarray | None = None,
    ) -> None:
        """Append a room. points [m, 3] in metres, shifted to their minimum here; colour [m, 3] and label [m] uint8.

        split: of all rooms or of none, then `splits.split_by_area`. taken [3]: what the points were shifted by before.
        """
        where = f"room {len(self.name)} ({name})"
        m = len(points)
        if m == 0:
            raise SchemaError(f"{where} has no points.")
        for item, values, expected in (
            ("points", points, (m, 3)),
            ("colour", colour, (m, 3)),
            ("label", label, (m,)),
        ):
            if values.shape != expected or (item != "points" and values.dtype != np.uint8):
                kind = "numbers" if item == "points" else "uint8"
                raise SchemaError(
                    f"{where}: {item} is {values.dtype} {values.shape}, expected {kind} {expected}."
                )
        if (row := h5_file.not_finite(points)) is not None:
            raise SchemaError(f"{where}: point {row} is {points[row].tolist()}, expected finite coordinates.")
        if label.max() >= len(self.class_names):
            first = int(np.argmax(label >= len(self.class_names)))
            raise SchemaError(
                f"{where}: point {first} has label {label[first]}, expected 0 .. {len(self.class_names) - 1}."
            )
        least = points.min(0)
        room = Room((points - least).astype(np.float32), colour, label)
        origin = least + (np.zeros(3) if taken is None else taken)
        for item, values in room._asdict().items():
            self.pending.append(item, values, CHUNK)
        self.name.append(name)
        self.area.append(area)
        self.split.append(split)
        self.size.append(m)
        self.origin.append(origin)
        self.digest.append(_digest(room))

    def finish(self) -> None:
        """Write the datasets that have one row an entry; then the file takes its place."""
        if not self.name:
            raise SchemaError(f"{self.pending.path}: no rooms were given, expected one or more.")
        area = np.array(self.area, dtype=np.int64)
        if None in self.split:
            split = splits.split_by_area(area)
        else:
            split = np.array(self.split, dtype=np.uint8)
        arrays: dict[str, Any] = {
            "area": area,
            "split": split,
            "name": np.array(self.name, dtype=object),
            "ptr": np.concatenate([[0], np.cumsum(self.size)]).astype(np.int64),
            "origin": np.stack(self.origin),
            "digest": np.array(self.digest, dtype=object),
            **h5_file.store_codes(self.codes, len(self.class_names)),
        }
        h5_file.check(str(self.pending.path), LAYOUT, arrays, self.class_names, self.provenance["rebuild"])
        self.pending.finish(arrays, self.class_names, self.provenance)


def _digest(room: Room) -> str:
    digest = hashlib.sha256()
    for values in room:
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _shape(area: np.ndarray) -> str | None:
    return None if area.ndim == 1 and len(area) else "[n] with n >= 1"


def _check(arrays: dict[str, Any], class_names: list[str], wrong: Wrong) -> None:
    ptr, name = arrays["ptr"], arrays["name"]
    if arrays["area"].min() < 1:
        raise wrong("area", arrays["area"].min(), "1 or more")
    if ptr.shape != (len(name) + 1,) or ptr[0] != 0 or np.diff(ptr).min() < 1:
        raise wrong("ptr", ptr.tolist()[:9], f"({len(name) + 1},), from 0, each room of one point or more")
    if arrays["origin"].shape != (len(name), 3) or not np.isfinite(arrays["origin"]).all():
        raise wrong("origin", arrays["origin"].shape, f"numbers ({len(name)}, 3)")
    seen: set[str] = set()
    for one in name:
        if one in seen:
            raise wrong("name", f"{one!r} twice", "a name for each room")
        seen.add(one)
    if len(class_names) > 255:
        raise wrong("class_names", f"{len(class_names)} names", "255 or fewer")
    h5_file.check_codes(arrays, len(class_names), wrong)


LAYOUT = Layout(
    task="scenes",
    entries="rooms",
    types={
        "area": np.int64,
        "split": np.uint8,
        "name": str,
        "ptr": np.int64,
        "origin": np.float64,
        "digest": str,
        "codes": np.int64,
    },
    optional=("codes",),
    shaped=("origin",),
    first_shape=_shape,
    check=_check,
    along={"ptr": None, "codes": None},
    label=None,
)
