"""`dropfold data furniture --source furniture_1024.npz`: makes data/furniture.h5 and its credits.

The source holds 820 furniture models of the Sweet Home 3D libraries (Debian's sweethome3d-furniture 1.8), 1,024 points and
normals each, sampled on the surface. The 360 that fall in 12 clean classes are kept, in the source's split of 252 /
108; about 15 % of each class's training shapes become the validation split.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.schemas import shape_schema, splits
from dropfold.data_scripts.schemas.copies import say_copies
from dropfold.data_scripts.schemas.shape_schema import TEST, TRAIN, Clouds, SchemaError
from dropfold.data_scripts.work import shipped

LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC-BY 3.0",
    "KatorLegaz": "CC-BY 3.0",
    "Reallusion": "CC-BY 3.0",
    "Scopia": "CC-BY 3.0",
}
URLS = {
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
}


@dataclass
class Options:
    """Make the furniture data set and its credits."""

    source: Path
    """furniture_1024.npz."""
    out: Path = Path("data/furniture.h5")
    """The file to write; its section of the CREDITS.md beside it is written, too."""


def convert(source: Path) -> Clouds:
    """The labelled shapes of the source as a data set."""
    columns = ("points", "normals", "label", "train", "name", "library")
    arrays = npz.load_arrays(source, (*columns, "classes"))
    keep = arrays["label"] >= 0
    found = {name: arrays[name][keep] for name in columns}
    class_names = [str(name) for name in arrays["classes"]]
    label = found["label"].astype(np.int64)
    split = np.where(found["train"], TRAIN, TEST).astype(np.uint8)
    split = splits.carve_validation(label, split, 0.15)
    name = [str(name) for name in found["name"]]
    say_copies(found["points"], split, name)
    return Clouds(
        points=npz.as_float32(found["points"]),
        normals=npz.as_float32(found["normals"]),
        label=label,
        split=split,
        name=name,
        library=[str(name) for name in found["library"]],
        class_names=class_names,
        source="Sweet Home 3D furniture libraries (Debian sweethome3d-furniture 1.8), points sampled on the surface",
        credits="data/CREDITS.md",
        rebuild="dropfold data furniture --source furniture_1024.npz",
    )


def format_credits(clouds: Clouds) -> str:
    """The section of the credits: each library and its models, as Markdown."""
    by_library = defaultdict(list)
    for name, library in zip(clouds.name, clouds.library or []):
        by_library[library].append(name)
    lines = [
        f"{len(clouds.name)} furniture models of the libraries of [Sweet Home 3D](https://www.sweethome3d.com),",
        "as packaged in Debian's sweethome3d-furniture 1.8. Changed here: each model became 1,024 points and normals",
        "sampled on its surface, centred and scaled, with one of 12 class labels.",
        "The file is made by `data_scripts/shapes/furniture.py`.",
    ]
    for library in sorted(by_library):
        if library not in LICENCES:
            raise SchemaError(
                f"the library {library!r} has no known licence; expected one of {', '.join(LICENCES)}. "
                "Find out its licence before its models are shipped."
            )
        licence = LICENCES[library]
        lines += [
            "",
            f"### {library}: [{licence}]({URLS[licence]})",
            "",
            ", ".join(sorted(by_library[library])) + ".",
        ]
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    clouds = convert(options.source)
    text = format_credits(clouds)  # before anything is written: no data without their licence
    shape_schema.write(options.out, clouds)
    shipped.write_section(options.out.with_name("CREDITS.md"), options.out.name, text)
    print(f"{options.out}: {[len(clouds.of(s)) for s in range(3)]} shapes to train, validate and test")
