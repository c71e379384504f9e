"""`dropfold data components --source components_seg16_512.npz`: makes data/components.h5 and its credits.

622 electronic components of KiCad's packages3D 6.0.10 in 16 families, 512 points each, with one of 35 part labels a point
(body, metal, lens of each family), which come from the names of the models' materials. The source's split of 440 / 182 is
kept; about 15 % of each family's training shapes become the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.schemas import part_schema, splits
from dropfold.data_scripts.schemas.copies import say_copies
from dropfold.data_scripts.schemas.part_schema import TEST, TRAIN, Parts, SchemaError
from dropfold.data_scripts.work import shipped

CREDITS = """
{n} models of electronic components of [KiCad's 3D library](https://gitlab.com/kicad/libraries/kicad-packages3D),
version 6.0.10, by the KiCad Library Team and contributors. Changed here: each model became 512 points sampled on its
surface, centred and scaled, with a part label a point made of the names of its materials.
The file is made by `data_scripts/shapes/components.py`.

Licence: [CC-BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/legalcode) with
[KiCad's exception](https://www.kicad.org/libraries/license/): "To the extent that the creation of electronic designs
that use 'Licensed Material' can be considered to be 'Adapted Material', then the copyright holder waives article 3 of the
license with respect to these designs and any generated files which use data provided as part of the 'Licensed Material'."
data/components.h5 is under the same terms.

{families}.
"""


@dataclass
class Options:
    """Make the components data set and its credits."""

    source: Path
    """components_seg16_512.npz."""
    out: Path = Path("data/components.h5")
    """The file to write; its section of the CREDITS.md beside it is written, too."""


def convert(source: Path) -> Parts:
    """The shapes of the source as a data set."""
    arrays = npz.load_arrays(source, ("points", "seg", "label", "train", "name", "classes", "parts"))
    points, category = arrays["points"], arrays["label"].astype(np.int64)
    class_names = [str(name) for name in arrays["classes"]]
    part_names = [str(name) for name in arrays["parts"]]
    if points.ndim != 3 or points.dtype != np.int16:
        raise SchemaError(f"{source}: points is {points.dtype} {points.shape}, expected int16 [n, N, 3].")
    n, size = points.shape[:2]
    split = np.where(arrays["train"], TRAIN, TEST).astype(np.uint8)
    split = splits.carve_validation(category, split, 0.15)
    name = [str(name) for name in arrays["name"]]
    say_copies(points, split, name)
    return Parts(
        # Whole multiples of 2 ** -15: the low bits of a float are zero, and the file is a third smaller.
        points=(points.reshape(-1, 3) / np.float32(32768)).astype(np.float32),
        part=part_schema.to_part_labels(arrays["seg"].reshape(-1), str(source)),
        ptr=np.arange(n + 1, dtype=np.int64) * size,
        category=category,
        split=split,
        name=name,
        class_names=class_names,
        part_names=part_names,
        part_category=part_schema.categories_of(part_names, class_names),
        source="KiCad packages3D 6.0.10, points sampled on the surface, parts by material",
        credits="data/CREDITS.md",
        rebuild="dropfold data components --source components_seg16_512.npz",
    )


def format_credits(parts: Parts) -> str:
    """The section of the credits."""
    count = np.bincount(parts.category)
    families = ", ".join(f"{name} ({m})" for name, m in zip(parts.class_names, count))
    return CREDITS.format(n=len(parts), families=f"Families: {families}")


def main(options: Options) -> None:
    parts = convert(options.source)
    part_schema.write(options.out, parts)
    shipped.write_section(options.out.with_name("CREDITS.md"), options.out.name, format_credits(parts))
    print(f"{options.out}: {[len(parts.of(s)) for s in range(3)]} shapes to train, validate and test")
