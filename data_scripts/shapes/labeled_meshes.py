"""`dropfold data labeled-meshes --source labeled_meshes_2048.npz`: makes data/local/labeled_meshes.h5.

380 watertight meshes of the Princeton Shape Benchmark, 19 categories of 20, 2,048 points and normals each, for
research use only: the file stays in data/local, which is not committed. The source's split of 228 / 152 is kept;
about 15 % of each class's training shapes become the validation split. With --parts the file holds the 94 part labels,
for part segmentation (data/local/labeled_meshes_parts.h5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.schemas import part_schema, shape_schema, splits
from dropfold.data_scripts.schemas.copies import say_copies
from dropfold.data_scripts.schemas.part_schema import Parts
from dropfold.data_scripts.schemas.shape_schema import TEST, TRAIN, Clouds


@dataclass
class Options:
    """Make the labeled-meshes data set."""

    source: Path
    """labeled_meshes_2048.npz."""
    out: Path | None = None
    """The file to write; None: data/local/labeled_meshes.h5, or labeled_meshes_parts.h5."""
    parts: bool = False
    """A file of part segmentation, not of classification."""


def convert(source: Path) -> Clouds:
    """The shapes of the source as a data set."""
    arrays = npz.load_arrays(source, ("points", "normals", "label", "train", "name", "classes"))
    label = arrays["label"].astype(np.int64)
    split = np.where(arrays["train"], TRAIN, TEST).astype(np.uint8)
    split = splits.carve_validation(label, split, 0.15)
    name = [str(name) for name in arrays["name"]]
    say_copies(arrays["points"], split, name)
    return Clouds(
        points=npz.as_float32(arrays["points"]),
        normals=npz.as_float32(arrays["normals"]),
        label=label,
        split=split,
        name=name,
        class_names=[str(name) for name in arrays["classes"]],
        source="Princeton Shape Benchmark, meshes with part labels; points sampled on the surface",
        credits="research use only; not to be redistributed",
        rebuild="dropfold data labeled-meshes --source labeled_meshes_2048.npz",
    )


def convert_parts(source: Path) -> Parts:
    """The shapes of the source with their part labels as a data set."""
    clouds = convert(source)
    arrays = npz.load_arrays(source, ("seg", "parts"))
    part_names = [str(name) for name in arrays["parts"]]
    n, size = clouds.points.shape[:2]
    assert clouds.normals is not None
    return Parts(
        points=clouds.points.reshape(-1, 3),
        normals=clouds.normals.reshape(-1, 3),
        part=part_schema.to_part_labels(arrays["seg"].reshape(-1), str(source)),
        ptr=np.arange(n + 1, dtype=np.int64) * size,
        category=clouds.label,
        split=clouds.split,
        name=clouds.name,
        class_names=clouds.class_names,
        part_names=part_names,
        part_category=part_schema.categories_of(part_names, clouds.class_names),
        source=clouds.source,
        credits=clouds.credits,
        rebuild=f"{clouds.rebuild} --parts",
    )


def main(options: Options) -> None:
    out = options.out or Path(f"data/local/labeled_meshes{'_parts' * options.parts}.h5")
    made: Clouds | Parts
    if options.parts:
        made = convert_parts(options.source)
        part_schema.write(out, made)
    else:
        made = convert(options.source)
        shape_schema.write(out, made)
    print(f"{out}: {[len(made.of(s)) for s in range(3)]} shapes to train, validate and test")
