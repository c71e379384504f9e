"""`dropfold predict RUN FILE...`: what a trained network says of shapes, clouds, scenes and videos in files.

For a run on point clouds: meshes (OFF, OBJ, STL, PLY) are sampled on their surface; clouds (PLY, XYZ, TXT, CSV, NPY) are
taken as they are. Each file is read as the training data were: centred, in the unit sphere; it should stand as they do,
the same axis up. For a run on videos: any file that PyAV decodes, or frames [T, H, W, C] in an NPY.

A run on parts or scenes labels every point: `dropfold predict RUN scene.ply --out labelled.ply`. Scenes are read from
PLY, LAS, LAZ, XYZ, TXT, NPY, shapes with parts from what is named above; either is written as any of these. Scenes stand
with z upwards; colours are 0 .. 255.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dropfold.data_scripts.readers.scene_file import Unit
from dropfold.train.config.configs import Config, Signature

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Options:
    """Predict the class of shapes, or of each of their points, in files."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Meshes, clouds, scenes or videos."""
    votes: int | None = None
    """Samplings of each mesh or cloud whose probabilities are averaged, 8 if not said; where each point is labelled, how
    often they are cut into groups: 1, or as the run's config says."""
    out: Path | None = None
    """Parts and scenes: where the labelled points of one file go; default: NAME-labelled.ply beside it."""
    category: str = ""
    """Parts: the kind of shape that the files hold."""
    unit: Unit | None = None
    """Scenes: the unit of the coordinates; default: metres, where that is a room's size."""
    top: int = 3
    """Classes shown for each file."""
    json: bool = False
    """Print JSON: a list of {file, class, probabilities}."""


def main(options: Options) -> None:
    if options.votes is not None and options.votes < 1:
        raise SystemExit(f"error: votes must be at least 1; got {options.votes}.")
    from dropfold.train.scoring.predict import predict
    from dropfold.train.tasks.registry import task_of
    from dropfold.train.tasks.trained import load_network

    try:
        config, signature, model = load_network(options.run)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    names, found, faults = signature.class_names, [], []
    if config.task in ("parts", "blocks", "scenes"):
        return label(options, config, signature, model)
    if options.out is not None:
        raise SystemExit(f"error: --out is for runs that label points, and {options.run} names classes.")
    for file in options.files:
        try:
            inputs = task_of(config).read(file, config, signature, options.votes or 8)
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


def label(options: Options, config: Config, signature: Signature, model: nn.Module) -> None:
    """Label the points of the files."""
    from dropfold.train.predict.labelling import in_words, label_file, target

    if options.out is not None and len(options.files) > 1:
        raise SystemExit(f"error: --out names one file, and {len(options.files)} are to be labelled.")
    targets = [target(file, options.out) for file in options.files]
    for file, out in zip(options.files, targets):
        if targets.count(out) > 1:
            raise SystemExit(
                f"error: {file} and another file would both be labelled in {out}; label them one by one, with --out."
            )
    found, faults = [], []
    for file, out in zip(options.files, targets):
        try:
            asked: dict[str, Any] = {
                "votes": options.votes,
                "category": options.category,
                "unit": options.unit,
            }
            found.append(label_file(model, config, signature, file, out, **asked))
        except (ValueError, OSError) as error:
            faults.append(str(error))
        except KeyboardInterrupt:
            raise SystemExit(f"\ninterrupted; nothing of {file} was written.") from None
    if found or options.json:
        print(json.dumps(found, indent=2) if options.json else "\n".join(map(in_words, found)))
    if faults:
        raise SystemExit("\n".join(f"error: {fault}" for fault in faults))
