"""`python -m train.predict RUN FILE...`: class and probabilities of shapes, clouds and videos in files.

For a run on point clouds: meshes (OFF, OBJ, STL, PLY) are sampled on their surface; clouds (PLY, XYZ, TXT, CSV, NPY) are
taken as they are. Each file is read as the training data were: centred, in the unit sphere; it should stand as they do,
the same axis up. For a run on videos: any file that PyAV decodes, or frames [T, H, W, C] in an NPY.
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
    """Meshes, clouds or videos."""
    votes: int = 8
    """Samplings of each mesh or cloud whose probabilities are averaged."""
    top: int = 3
    """Classes shown for each file."""
    json: bool = False
    """Print JSON: a list of {file, class, probabilities}."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.votes < 1:
        raise SystemExit(f"error: votes must be at least 1; got {options.votes}.")
    from train.network import load_network, predict
    from train.tasks import task_of

    try:
        config, signature, model = load_network(options.run)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    names, found, faults = signature.class_names, [], []
    for file in options.files:
        try:
            inputs = task_of(config).read(file, config, signature, options.votes)
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        logits = predict(model, inputs)
        probabilities = (logits.sigmoid() if signature.multi_label else logits.softmax(1)).mean(0)
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
