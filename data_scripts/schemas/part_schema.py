"""The HDF5 layout of part segmentation: what a file holds, how it is written, and what is checked on reading.

| dataset | type | shape | |
|---|---|---|---|
| category | int64 | [n] | of each shape, 0 .. categories - 1 |
| split | uint8 | [n] | 0 train, 1 validation, 2 test |
| name | UTF-8 | [n] | of each shape |
| points | float32 | [M, 3] | of all shapes one after the other; in the unit sphere unless `source` says otherwise |
| part | uint8 | [M] | of each point, 0 .. parts - 1; a part of its shape's category |
| normals | float32 | [M, 3] | optional |
| ptr | int64 | [n + 1] | rows ptr[i] .. ptr[i + 1] are shape i |
| part_names | UTF-8 | [P] | e.g. "chair/leg" |
| part_category | int64 | [P] | the category of each part |
| codes | int64 | [P] | optional: the number of each part in the files of the source; without it 0 .. parts - 1 |

Attributes: see `dropfold.data_scripts.schemas.h5_file`; the task is "parts", class_names are the categories.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.schemas import h5_file
from dropfold.data_scripts.schemas.h5_file import SPLITS, TEST, TRAIN, VALIDATION, Layout, SchemaError, Wrong

__all__ = [
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Parts",
    "SchemaError",
    "categories_of",
    "read",
    "to_part_labels",
    "write",
]


@dataclass(frozen=True)
class Parts:
    """A part-segmentation data set in memory; the arrays are those of the file (see above) and may be memory maps."""

    points: np.ndarray
    part: np.ndarray
    ptr: np.ndarray
    category: np.ndarray
    split: np.ndarray
    name: list[str]
    class_names: list[str]
    """The categories."""
    part_names: list[str]
    part_category: np.ndarray
    source: str
    credits: str
    rebuild: str
    normals: np.ndarray | None = None
    checksum: str = ""
    codes: list[int] = field(default_factory=list)
    """The number of each part in the files of the source; of a file that was read never empty."""

    def __len__(self) -> int:
        return len(self.category)

    def of(self, split: int) -> np.ndarray:
        """Indices of the shapes of one split."""
        return np.flatnonzero(self.split == split)

    def rows(self, i: int) -> slice:
        """The rows of shape i in points, part and normals."""
        return slice(int(self.ptr[i]), int(self.ptr[i + 1]))

    def parts_of(self, category: int) -> np.ndarray:
        """The parts of one category."""
        return np.flatnonzero(self.part_category == category)


def write(path: Path, parts: Parts) -> None:
    """Write `parts` to `path`: checked first, into a temporary file beside it, then renamed over it."""
    arrays: dict[str, Any] = {name: getattr(parts, name) for name in LAYOUT.types if name != "codes"}
    arrays |= h5_file.store_codes(parts.codes, len(parts.part_names))
    for name in ("name", "part_names"):
        arrays[name] = np.array(arrays[name], dtype=object)
    if parts.normals is None:
        del arrays["normals"]
    provenance = {name: getattr(parts, name) for name in h5_file.PROVENANCE}
    h5_file.write(path, LAYOUT, arrays, parts.class_names, provenance)


def read(path: Path) -> Parts:
    """Read and verify a file; every fault is a `SchemaError` that says what is wrong, where, and how to rebuild."""
    missing = "data/components.h5 ships with the project; the scripts in data_scripts make the others."
    arrays, class_names, provenance = h5_file.read(Path(path), LAYOUT, missing)
    arrays |= {name: list(arrays[name]) for name in ("name", "part_names")} | provenance
    codes = h5_file.take_codes(arrays, len(arrays["part_names"]))
    return Parts(**arrays, class_names=class_names, codes=codes)


def to_part_labels(part: np.ndarray, where: str) -> np.ndarray:
    """Part labels as they are stored; a `SchemaError` that begins with `where` if one is not 0 .. 255."""
    if part.dtype.kind not in "iu" or (part.size and (part.min() < 0 or part.max() > 255)):
        found = f"{part.min()} .. {part.max()}" if part.size and part.dtype.kind in "iuf" else "no numbers"
        raise SchemaError(f"{where}: part labels are {part.dtype}, {found}; expected integers 0 .. 255.")
    return part.astype(np.uint8)


def categories_of(part_names: list[str], class_names: list[str]) -> np.ndarray:
    """[P]: the category of each part named "category/part"."""
    place = {name: c for c, name in enumerate(class_names)}
    for name in part_names:
        if name.rpartition("/")[0] not in place:
            raise SchemaError(
                f"part {name!r} is of no category; expected CATEGORY/part, of {', '.join(place)}."
            )
    return np.array([place[name.rpartition("/")[0]] for name in part_names], dtype=np.int64)


def _shape(category: np.ndarray) -> str | None:
    return None if category.ndim == 1 and len(category) else "[n] with n >= 1"


def _check(arrays: dict[str, Any], class_names: list[str], wrong: Wrong) -> None:
    points, ptr, name, part_category = (arrays[k] for k in ("points", "ptr", "name", "part_category"))
    n = len(name)
    if points.ndim != 2 or points.shape[1] != 3:
        raise wrong("points' shape", points.shape, "[M, 3]")
    if "normals" in arrays and arrays["normals"].shape != points.shape:
        raise wrong("normals' shape", arrays["normals"].shape, f"that of points, {points.shape}")
    if ptr.shape != (n + 1,) or ptr[0] != 0 or ptr[-1] != len(points):
        found = f"{ptr.shape}, {ptr[0]} .. {ptr[-1]}" if ptr.size else "empty"
        raise wrong("ptr", found, f"({n + 1},), 0 .. {len(points)}: where each shape begins")
    size = np.diff(ptr)
    if size.min() < 1:
        first = int(np.argmax(size < 1))
        raise wrong(f"shape {first} ({name[first]})", f"of {size[first]} points", "1 point or more")
    for item in ("points", "normals"):
        if item in arrays and (row := h5_file.not_finite(arrays[item])) is not None:
            i = int(np.searchsorted(ptr, row, "right")) - 1
            raise wrong(f"{item} of shape {i} ({name[i]})", "not finite", "numbers")
    if len(arrays["part_names"]) == 0:
        raise wrong("part_names", "empty", "the names of the parts")
    h5_file.check_codes(arrays, len(arrays["part_names"]), wrong)
    bare = sorted(set(range(len(class_names))) - set(part_category.tolist()))
    if bare or part_category.min() < 0 or part_category.max() >= len(class_names):
        found = f"{part_category.min()} .. {part_category.max()}, without {bare or 'none'}"
        raise wrong("part_category", found, f"0 .. {len(class_names) - 1}, each with a part or more")
    for i, (category, start, end) in enumerate(zip(arrays["category"].tolist(), ptr[:-1], ptr[1:])):
        held = np.bincount(arrays["part"][start:end], minlength=len(part_category))
        if len(held) > len(part_category) or held[part_category != category].any():
            allowed = np.flatnonzero(part_category == category).tolist()
            strange = sorted(set(np.flatnonzero(held).tolist()) - set(allowed))
            raise wrong(f"part of shape {i} ({name[i]})", strange, f"of {class_names[category]}'s, {allowed}")


def _storage(values: np.ndarray) -> dict[str, Any]:
    # Gigabytes take minutes at the usual level, and the low bits of floats are hardly smaller for it.
    return {"compression": "gzip", "compression_opts": 4 if values.nbytes < 1 << 26 else 1, "shuffle": True}


LAYOUT = Layout(
    task="parts",
    entries="shapes",
    types={
        "category": np.int64,
        "split": np.uint8,
        "name": str,
        "points": np.float32,
        "part": np.uint8,
        "normals": np.float32,
        "ptr": np.int64,
        "part_names": str,
        "part_category": np.int64,
        "codes": np.int64,
    },
    optional=("normals", "codes"),
    shaped=("points", "normals"),
    first_shape=_shape,
    check=_check,
    along={
        "points": None,
        "part": "points",
        "normals": "points",
        "ptr": None,
        "part_names": None,
        "part_category": "part_names",
        "codes": None,
    },
    label="category",
    storage={"points": _storage, "normals": _storage},
)
