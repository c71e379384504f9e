"""`dropfold data meshes --source FOLDER --out X.h5`: a data set from a folder of one's own meshes or clouds.

One folder a class, with files of any kind that `shapes` reads (OFF, OBJ, STL, PLY, PCD, LAS, XYZ, TXT, CSV, NPY).
If the classes lie in folders train, val(idation) and test, or hold such folders, that is the split; otherwise each
class is split 70 / 15 / 15. A file that cannot be read is reported and left out; a class left empty is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout, parse_layout
from dropfold.data_scripts.readers.shapes import SUFFIXES, read_shape
from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.schemas.h5_file import SPLIT_OF_FOLDER
from dropfold.data_scripts.schemas.shape_schema import TEST, TRAIN, VALIDATION, Clouds
from dropfold.data_scripts.work.archive import open_as_folder
from dropfold.data_scripts.work.errors import SchemaError, ShapeError
from dropfold.data_scripts.work.folders import list_files


@dataclass
class Options:
    """Make a data set from a folder (or zip) of shapes, one folder a class."""

    source: Path
    """The folder, or a zip or tar of it."""
    out: Path
    """The HDF5 file to write."""
    points: int = 1024
    """Points of each shape."""
    seed: int = 0
    """Of the sampling and of the split."""
    columns: str | None = None
    """Of text tables and .npy arrays, "x y z nx ny nz" say, - leaves one out; None: by their names, or a guess that is
    said."""
    drop_nan: bool = False
    """Leave out points with numbers that are not finite; otherwise they are a fault."""


def list_shapes(folder: Path) -> list[tuple[Path, str, int | None]]:
    """(file, class, split or None) of every shape under `folder`, sorted."""
    found = []
    for path in list_files(folder, SUFFIXES):
        parents = list(path.relative_to(folder).parts[:-1])
        split = next(
            (SPLIT_OF_FOLDER[part.lower()] for part in parents if part.lower() in SPLIT_OF_FOLDER), None
        )
        classes = [part for part in parents if part.lower() not in SPLIT_OF_FOLDER]
        if classes:
            found.append((path, classes[-1], split))
    return found


def convert(
    folder: Path, points: int, seed: int = 0, origin: str | None = None, layout: Layout = AS_FOUND
) -> tuple[Clouds, list[str]]:
    """The data set, and a sentence for each file that was left out.

    `origin` is the name that the file states as its source: the archive's where `folder` is what it was unpacked to.
    """
    origin = origin or folder.resolve().name
    found = list_shapes(folder)
    if not found:
        raise SchemaError(
            f"{folder} holds no class folders with shapes; expected one folder a class with files "
            f"{', '.join(SUFFIXES)}."
        )
    names = sorted({name for _, name, _ in found})
    shapes, kept, faults = [], [], []
    for i, file in enumerate(track(found, "reading", console=Console(stderr=True))):
        try:
            shapes.append(read_shape(file[0], points, seed + i, layout=layout))
            kept.append(file)
        except ShapeError as error:
            faults.append(str(error))
    empty = [name for name in names if name not in {file[1] for file in kept}]
    if empty:
        raise SchemaError("\n".join([f"no readable shape is left of {', '.join(empty)}:", *faults]))
    label = np.array([names.index(name) for _, name, _ in kept], dtype=np.int64)
    splits = [split for _, _, split in kept]
    if all(split is None for split in splits):
        split = np.full(len(kept), TRAIN, dtype=np.uint8)
        random = np.random.default_rng(seed)
        for c in range(len(names)):
            members = random.permutation(np.flatnonzero(label == c))
            share = max(1, round(0.15 * len(members))) if len(members) >= 3 else 0
            split[members[:share]] = TEST
            split[members[share : 2 * share]] = VALIDATION
    else:
        split = np.array([TRAIN if s is None else s for s in splits], dtype=np.uint8)
        if VALIDATION not in split:
            split = shape_schema.carve_validation(label, split, 0.15, seed)
    normals = [n for _, n in shapes if n is not None]
    arguments = f"--source {origin} --out FILE --points {points} --seed {seed}"
    arguments += f' --columns "{" ".join(layout.columns)}"' if layout.columns else ""
    arguments += " --drop-nan" if layout.drop_nan else ""
    clouds = Clouds(
        points=np.stack([p for p, _ in shapes]),
        normals=np.stack(normals) if len(normals) == len(shapes) else None,
        label=label,
        split=split,
        name=[str(path.relative_to(folder)) for path, _, _ in kept],
        class_names=names,
        source=f"the folder or archive {origin}",
        credits="one's own",
        rebuild=f"dropfold data meshes {arguments}",
    )
    return clouds, faults


def main(options: Options) -> None:
    with open_as_folder(options.source) as folder:
        layout = parse_layout(options.columns, options.drop_nan)
        clouds, faults = convert(folder, options.points, options.seed, options.source.resolve().name, layout)
    shape_schema.write(options.out, clouds)
    counts = [len(clouds.of(s)) for s in range(3)]
    print(f"{options.out}: {counts} shapes to train, validate and test, {len(clouds.class_names)} classes")
    for fault in faults:
        print(f"left out: {fault}")
