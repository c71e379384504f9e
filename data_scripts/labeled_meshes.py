"""`python -m data_scripts.labeled_meshes --source labeled_meshes_2048.npz`: makes data/local/labeled_meshes.h5.

380 watertight meshes of the Princeton Shape Benchmark, 19 categories of 20, 2,048 points and normals each, for
research use only: the file stays in data/local, which is not committed. The source's split of 228 / 152 is kept;
about 15 % of each class's training shapes become the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_scripts import npz, schema
from data_scripts.schema import TEST, TRAIN, Clouds, SchemaError


@dataclass
class Options:
    """Make the labeled-meshes data set."""

    source: Path
    """labeled_meshes_2048.npz."""
    out: Path = Path("data/local/labeled_meshes.h5")
    """The file to write."""


def convert(source: Path) -> Clouds:
    """The shapes of the source as a data set."""
    arrays = npz.load(source, ("points", "normals", "label", "train", "name", "classes"))
    label = arrays["label"].astype(np.int64)
    split = np.where(arrays["train"], TRAIN, TEST).astype(np.uint8)
    return Clouds(
        points=arrays["points"].astype(np.float32),
        normals=arrays["normals"].astype(np.float32),
        label=label,
        split=schema.carve_validation(label, split, 0.15),
        name=[str(name) for name in arrays["name"]],
        class_names=[str(name) for name in arrays["classes"]],
        source="Princeton Shape Benchmark, meshes with part labels; points sampled on the surface",
        credits="research use only; not to be redistributed",
        rebuild="python -m data_scripts.labeled_meshes --source labeled_meshes_2048.npz",
    )


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    try:
        clouds = convert(options.source)
        schema.write(options.out, clouds)
    except SchemaError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{options.out}: {[len(clouds.of(s)) for s in range(3)]} shapes to train, validate and test")


if __name__ == "__main__":
    main()
