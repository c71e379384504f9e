"""`dropfold predict RUN FILE...`: the predictions of a trained network for shapes, clouds, scenes and videos in files.

For a run on point clouds: meshes (OFF, OBJ, STL, PLY) are sampled on their surface; clouds (PLY, XYZ, TXT, CSV, NPY) are
taken as they are. Each file is read as the training data were: centred, scaled into the unit sphere. Its upright axis should
be theirs. For a run on videos: any file that PyAV decodes, or frames [T, H, W, C] in an NPY.

A run on parts or scenes labels every point: `dropfold predict RUN scene.ply --out labelled.ply`. Scenes are read from
PLY, LAS, LAZ, XYZ, TXT, NPY; shapes with parts from the formats above. Both are written as any of the scene formats, each
point with the number that its class has in the files that the data set was made of. Labels in a file are compared. Scenes have
z upwards; colours are 0 .. 255.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dropfold.data_scripts.readers.scene_file import Unit

if TYPE_CHECKING:
    from dropfold.train.tasks.trained import Trained


@dataclass
class Options:
    """Predict the class of shapes, or of each of their points, in files."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Meshes, clouds, scenes or videos."""
    votes: int | None = None
    """Samplings of each mesh or cloud whose probabilities are averaged, default 8. For runs that label points: how often
    the points are cut into groups, default 1, or as the run's config says."""
    out: Path | None = None
    """Parts and scenes: where the labelled points of one file go; default: NAME-labelled.ply beside it."""
    category: str = ""
    """Parts: the kind of shape in the files."""
    unit: Unit | None = None
    """Scenes: the unit of the coordinates; default: metres, if that gives a room's size."""
    top: int = 3
    """Classes shown for each file."""
    json: bool = False
    """Print JSON: a list of {file, class, probabilities}."""


def main(options: Options) -> None:
    if options.votes is not None and options.votes < 1:
        raise ValueError(f"votes must be at least 1; got {options.votes}.")
    from dropfold.train.scoring.logits import predict
    from dropfold.train.tasks.registry import CLASSIFYING
    from dropfold.train.tasks.trained import Trained

    trained = Trained.of(options.run)
    network, config, signature = trained.network, trained.config, trained.signature
    task = CLASSIFYING.get(config.task)
    if task is None:
        return label(options, trained)
    if options.out is not None:
        raise ValueError(f"--out is for runs that label points, and {options.run} names classes.")
    names, rows, errors = signature.class_names, [], []
    for file in options.files:
        try:
            inputs = task.read(file, config, signature, options.votes or 8)
        except (ValueError, OSError) as error:
            errors.append(str(error))
            continue
        logits = predict(network, inputs)
        probabilities = (logits.sigmoid() if signature.multi_label else logits.softmax(1)).mean(0)
        order = probabilities.argsort(descending=True).tolist()
        rows.append(
            {
                "file": str(file),
                "class": names[order[0]],
                "probabilities": {names[c]: round(float(probabilities[c]), 4) for c in order},
            }
        )
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            likely = list(row["probabilities"].items())[: options.top]
            print(f"{row['file']}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in likely))
    if errors:
        raise SystemExit("\n".join(f"error: {error}" for error in errors))


def label(options: Options, trained: Trained) -> None:
    """Label the points of the files."""
    from dropfold.train.predict.labelling import in_words, label_file, output_path

    if options.out is not None and len(options.files) > 1:
        raise ValueError(f"--out names one file, and {len(options.files)} are to be labelled.")
    targets = [output_path(file, options.out) for file in options.files]
    for file, out in zip(options.files, targets):
        if targets.count(out) > 1:
            raise ValueError(
                f"{file} and another file would both be labelled in {out}; label them one by one, with --out."
            )
    rows, errors = [], []
    for file, out in zip(options.files, targets):
        try:
            rows.append(
                label_file(
                    *(trained, file, out),
                    votes=options.votes,
                    category=options.category,
                    unit=options.unit,
                )
            )
        except (ValueError, OSError) as error:
            errors.append(str(error))
        except KeyboardInterrupt as stop:
            stop.add_note(f"nothing of {file} was written")
            raise
    if rows or options.json:
        print(json.dumps(rows, indent=2) if options.json else "\n".join(map(in_words, rows)))
    if errors:
        raise SystemExit("\n".join(f"error: {error}" for error in errors))
