"""The HDF5 layout of classification data: what a file holds, how it is written, and what is checked on reading.

| dataset | type | shape | |
|---|---|---|---|
| points | float32 | [n, N, 3] | clouds, centred, in the unit sphere unless `source` says otherwise |
| normals | float32 | [n, N, 3] | optional |
| label | int64 | [n] | 0 .. classes - 1 |
| split | uint8 | [n] | 0 train, 1 validation, 2 test |
| name | UTF-8 | [n] | of each shape |
| library | UTF-8 | [n] | optional: where each shape comes from |
| group | UTF-8 | [n] | optional: what a shape shares with others, as the mould of variants of one part |
| group_fold | uint8 | [n] | with `group` alone: 0 .. 4, folds that keep the shapes of a group together |

Attributes: see `dropfold.data_scripts.schemas.h5_file`; the task is "classification".

Where there are groups, no group may lie in two splits: variants of one mould on both sides would test what is known.
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
    stated_checksum,
)

__all__ = [
    "FOLDS",
    "SCHEMA",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Clouds",
    "SchemaError",
    "read",
    "stated_checksum",
    "write",
]


@dataclass(frozen=True)
class Clouds:
    """A classification data set in memory; the arrays are those of the file (see above)."""

    points: np.ndarray
    label: np.ndarray
    split: np.ndarray
    name: list[str]
    class_names: list[str]
    source: str
    credits: str
    rebuild: str
    normals: np.ndarray | None = None
    library: list[str] | None = None
    group: list[str] | None = None
    group_fold: np.ndarray | None = None
    checksum: str = ""

    def of(self, split: int) -> np.ndarray:
        """Indices of the shapes of one split."""
        return np.flatnonzero(self.split == split)


def write(path: Path, clouds: Clouds) -> None:
    """Write `clouds` to `path`: checked first, into a temporary file beside it, then renamed over it."""
    arrays: dict[str, Any] = {
        "points": clouds.points,
        "label": clouds.label,
        "split": clouds.split,
        "name": np.array(clouds.name, dtype=object),
    }
    if clouds.normals is not None:
        arrays["normals"] = clouds.normals
    if clouds.library is not None:
        arrays["library"] = np.array(clouds.library, dtype=object)
    if clouds.group is not None:
        arrays["group"] = np.array(clouds.group, dtype=object)
    if clouds.group_fold is not None:
        arrays["group_fold"] = clouds.group_fold
    provenance = {name: getattr(clouds, name) for name in h5_file.PROVENANCE}
    h5_file.write(path, LAYOUT, arrays, clouds.class_names, provenance)


def read(path: Path) -> Clouds:
    """Read and verify a file; every fault is a `SchemaError` that says what is wrong, where, and how to rebuild."""
    missing = "data/furniture.h5 ships with the project; the scripts in data_scripts make the others."
    arrays, class_names, provenance = h5_file.read(Path(path), LAYOUT, missing)
    return Clouds(
        points=arrays["points"],
        label=arrays["label"],
        split=arrays["split"],
        name=list(arrays["name"]),
        class_names=class_names,
        normals=arrays.get("normals"),
        library=list(arrays["library"]) if "library" in arrays else None,
        group=list(arrays["group"]) if "group" in arrays else None,
        group_fold=arrays.get("group_fold"),
        **provenance,
    )


def _shape(points: np.ndarray) -> str | None:
    whole = points.ndim == 3 and points.shape[2] == 3 and 0 not in points.shape
    return None if whole else "[n, N, 3] with n, N >= 1"


def _check(arrays: dict[str, Any], class_names: list[str], wrong: Wrong) -> None:
    points = arrays["points"]
    if "normals" in arrays and arrays["normals"].shape != points.shape:
        raise wrong("normals' shape", arrays["normals"].shape, f"that of points, {points.shape}")
    for name in ("points", "normals"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            first = int(np.flatnonzero(~np.isfinite(arrays[name]).all((1, 2)))[0])
            raise wrong(f"{name} of shape {first} ({arrays['name'][first]})", "not finite", "numbers")
    if ("group" in arrays) != ("group_fold" in arrays):
        there, missing = ("group", "group_fold") if "group" in arrays else ("group_fold", "group")
        raise wrong(missing, "not there", f"as {there} is: both or neither")
    if "group" in arrays:
        groups.check_folds(arrays["group"], arrays["group_fold"], wrong)
        groups.check_split(arrays["group"], arrays["split"], wrong)


LAYOUT = Layout(
    task="classification",
    entries="shapes",
    types={
        "points": np.float32,
        "label": np.int64,
        "split": np.uint8,
        "name": str,
        "normals": np.float32,
        "library": str,
        "group": str,
        "group_fold": np.uint8,
    },
    optional=("normals", "library", "group", "group_fold"),
    shaped=("points", "normals"),
    first_shape=_shape,
    check=_check,
)
