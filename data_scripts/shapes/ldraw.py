"""`dropfold data ldraw --source ldraw37_1024.npz`: makes data/local/ldraw.h5.

3,785 real CAD parts of the LDraw.org Parts Library (CC BY 2.0) in 37 categories, 1,024 points and normals each. The file
is too large to be committed and stays in data/local. A part's group is its mould, which its variants share; the source's
five folds keep moulds whole, and so do the splits: fold 0 tests, and of the others about 15 % of each category validate.
The parts' radii in LDraw units are left out: sizes are scaled away.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.schemas import groups, shape_schema, splits
from dropfold.data_scripts.schemas.copies import digests_of
from dropfold.data_scripts.schemas.h5_file import Wrong
from dropfold.data_scripts.schemas.shape_schema import FOLDS, TEST, TRAIN, Clouds, SchemaError

POINT_UNIT, NORMAL_UNIT = 32767, 127  # what 1.0 is stored as
TEST_FOLD = 0
# Of each array: NumPy's kinds of numbers, and what they are in words.
ARRAYS = {
    "points": ("i", "int16 [parts, points, 3]"),
    "normals": ("i", "int8 of the shape of points"),
    "label": ("iu", "whole numbers, one a part"),
    "mould": ("U", "text, one a part"),
    "name": ("U", "text, one a part"),
    "fold": ("iu", "whole numbers, one a part"),
    "train": ("b", "true or false, one a part"),
    "classes": ("U", "the names of the categories"),
}


@dataclass
class Options:
    """Make the LDraw data set."""

    source: Path
    """ldraw37_1024.npz."""
    out: Path = Path("data/local/ldraw.h5")
    """The file to write."""


def convert(source: Path) -> Clouds:
    """The parts of the source as a data set."""
    arrays = npz.load_arrays(source, tuple(ARRAYS))
    check(source, arrays)
    label = arrays["label"].astype(np.int64)
    mould = [str(name) for name in arrays["mould"]]
    split = np.where(arrays["fold"] == TEST_FOLD, TEST, TRAIN).astype(np.uint8)
    return Clouds(
        points=arrays["points"].astype(np.float32) / POINT_UNIT,
        normals=arrays["normals"].astype(np.float32) / NORMAL_UNIT,
        label=label,
        split=splits.carve_groups(mould, label, split, 0.15),
        name=[str(name) for name in arrays["name"]],
        class_names=[str(name) for name in arrays["classes"]],
        group=mould,
        group_fold=arrays["fold"].astype(np.uint8),
        source="LDraw.org Parts Library; points on the surface, of 16 bits, and normals of 8; a group is a mould",
        credits="LDraw.org Parts Library, its authors (each part's file names its author), CC BY 2.0; changed: points of it",
        rebuild="dropfold data ldraw --source ldraw37_1024.npz",
    )


def check(source: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise the first fault of the source's arrays as a sentence."""

    def refuse(name: str, found: object, expected: str) -> SchemaError:
        return SchemaError(f"{source}: {name} is {found}, expected {expected}.")

    points, classes = arrays["points"], arrays["classes"]
    n = len(points) if points.ndim == 3 and points.shape[2] == 3 and 0 not in points.shape else 0
    shapes = {"points": points.shape if n else None, "normals": points.shape, "classes": (classes.size,)}
    for name, (kinds, words) in ARRAYS.items():
        values, width = arrays[name], {"points": 2, "normals": 1}.get(name)
        right = values.dtype.kind in kinds and width in (None, values.dtype.itemsize)
        if not right or values.shape != shapes.get(name, (n,)):
            raise refuse(name, f"{values.dtype} {list(values.shape)}", words)
    label, fold = arrays["label"], arrays["fold"]
    for name, values, most in (("label", label, len(classes)), ("fold", fold, FOLDS)):
        if values.min() < 0 or values.max() >= most:
            raise refuse(name, f"{values.min()} .. {values.max()}", f"0 .. {most - 1}")
    if (arrays["train"] != (fold != TEST_FOLD)).any():
        raise refuse("train", f"not the parts of all folds but {TEST_FOLD}", f"fold != {TEST_FOLD}")
    if apart := groups.first_apart(arrays["mould"].tolist(), fold):
        raise refuse(f"mould {apart[0]!r}", f"in folds {apart[1]} and {apart[2]}", "a mould in one fold")
    for name in ("mould", "name", "classes"):
        if len(empty := np.flatnonzero(np.char.strip(arrays[name]) == "")):
            raise refuse(f"{name} {empty[0]}", "empty", "text")
    for name in ("name", "classes"):
        if twice := find_equal(arrays[name].tolist()):
            raise refuse(
                f"{name} {twice[1]}", f"{str(arrays[name][twice[1]])!r}, that of {twice[0]}", "another"
            )
    check_categories(label, fold, classes, refuse)
    check_points(arrays, refuse)


def check_categories(label: np.ndarray, fold: np.ndarray, classes: np.ndarray, refuse: Wrong) -> None:
    """Refuse a category without parts, and one whose parts all test or none do: its scores would mean nothing."""
    for c, name in enumerate(classes):
        folds = np.unique(fold[label == c])
        if TEST_FOLD not in folds or len(folds) < 2:
            found = f"in fold {', '.join(map(str, folds))} alone" if len(folds) else "of no part"
            expected = f"parts in fold {TEST_FOLD}, which tests, and in another"
            raise refuse(f"category {str(name)!r}", found, expected)


def check_points(arrays: dict[str, np.ndarray], refuse: Wrong) -> None:
    """Refuse parts of one point, and equal ones of two names: across folds they would test what is known. The numbers are
    whole, so that none can be infinite or NaN."""
    points, name = arrays["points"], arrays["name"]
    if len(flat := np.flatnonzero((points == points[:, :1]).all((1, 2)))):
        raise refuse(f"points of part {flat[0]} ({name[flat[0]]})", "one point", "points of a surface")
    if twice := find_equal(digests_of(points)):
        one, other = twice
        raise refuse(
            f"points of part {other} ({name[other]})", f"those of part {one} ({name[one]})", "its own"
        )


def find_equal(values: Sequence[Hashable]) -> tuple[int, int] | None:
    """The places of the first value that was there before; None if all differ."""
    seen: dict[Hashable, int] = {}
    for i, value in enumerate(values):
        if seen.setdefault(value, i) != i:
            return seen[value], i
    return None


def main(options: Options) -> None:
    clouds = convert(options.source)
    shape_schema.write(options.out, clouds)
    print(f"{options.out}: {[len(clouds.of(s)) for s in range(3)]} parts to train, validate and test")
