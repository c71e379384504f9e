"""`python -m train.predict RUN FILE...`: class and probabilities of meshes and clouds in files.

Meshes (OFF, OBJ, STL, PLY) are sampled on their surface; clouds (PLY, XYZ, TXT, CSV, NPY) are taken as they are.
Each file is read as the training data were: centred, in the unit sphere; it should stand as they do, the same axis up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Options:
    """Predict the class of shapes in files."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Meshes or clouds."""
    votes: int = 8
    """Samplings of each file whose probabilities are averaged."""
    top: int = 3
    """Classes shown for each file."""
    json: bool = False
    """Print JSON: a list of {file, class, probabilities}."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.votes < 1:
        raise SystemExit(f"error: votes must be at least 1; got {options.votes}.")
    import numpy as np
    import torch

    from data_scripts.shapes import ShapeError, read_shape
    from train.network import load_network, predict

    try:
        config, names, model = load_network(options.run)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    found, faults = [], []
    for file in options.files:
        try:
            shapes = [read_shape(file, config.points, seed) for seed in range(options.votes)]
            if config.normals and shapes[0][1] is None:
                raise ShapeError(f"{file} has no normals, and the run was trained with them.")
        except ShapeError as error:
            faults.append(str(error))
            continue
        clouds = [np.concatenate([p, n], 1) if config.normals and n is not None else p for p, n in shapes]
        probabilities = predict(model, torch.from_numpy(np.stack(clouds))).softmax(1).mean(0)
        order = probabilities.argsort(descending=True).tolist()
        found.append(
            {
                "file": str(file),
                "class": names[order[0]],
                "probabilities": {names[c]: round(float(probabilities[c]), 4) for c in order},
            }
        )
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for one in found:
            likely = list(one["probabilities"].items())[: options.top]
            print(f"{one['file']}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in likely))
    if faults:
        raise SystemExit("\n".join(f"error: {fault}" for fault in faults))


if __name__ == "__main__":
    main()
