"""Labels for the points of shapes and scenes in files, written beside them (`dropfold predict`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.readers.scene_file import Unit, check_target, in_metres, read_scene, write_scene
from dropfold.train.config.configs import BlockConfig, PartConfig, Signature
from dropfold.train.scoring import metrics
from dropfold.train.tasks import parts
from dropfold.train.tasks.scene_prediction import check_colour, label_points, progress
from dropfold.train.tasks.trained import Trained


def label_file(
    trained: Trained,
    file: Path,
    out: Path,
    *,
    votes: int | None = None,
    category: str = "",
    unit: Unit | None = None,
    layout: Layout = AS_FOUND,
) -> dict[str, Any]:
    """Label every point of a file, write the labelled points to `out` (whole, at the end, or not at all), and return the
    number of points of each class.

    Raises:
        ValueError: what is wrong with the file, or missing.
    """
    config, signature, network = trained.config, trained.signature, trained.network
    if out.exists() and out.samefile(file):
        raise ValueError(
            f"--out {out} is the file to be labelled, and what else it holds would be lost; give another."
        )
    check_target(out)
    if isinstance(config, PartConfig):
        kind = category_of(category, signature)
        points, cloud = parts.read(file, config, signature, layout)
        label = parts.label_cloud(network, cloud, kind, config, signature, votes or 1)
        colour, target = None, None
    else:
        assert isinstance(config, BlockConfig)
        scene = read_scene(file, layout)
        points, colour, target = scene
        check_colour(colour, config, str(file))
        if votes is not None:
            config = replace(config, votes=votes)
        metres = in_metres(file, points, unit, scene.unit)
        with progress(f"labelling {file.name}", len(points)) as advance:
            label = label_points(network, metres, colour, config, len(signature.class_names), advance)
    write_scene(out, points, colour, label)
    counts = np.bincount(label, minlength=len(signature.class_names)).tolist()
    row = {
        "file": str(file),
        "out": str(out),
        "points": len(label),
        "classes": {name: count for name, count in zip(signature.class_names, counts, strict=True) if count},
    }
    # A LAS file without labels has the label 0 at every point.
    if target is not None and target.any() and target.min() >= 0 and target.max() < len(counts):
        matrix = metrics.confusion(target, label, len(counts))
        row["against its labels"] = metrics.scene_scores(matrix).figures
    return row


def output_path(file: Path, out: Path | None) -> Path:
    """The file that the labelled points go to: `out`, or NAME-labelled.ply beside it."""
    return file.with_name(f"{file.stem}-labelled.ply") if out is None else out


def category_of(name: str, signature: Signature) -> int:
    """The index of a category, which a network for parts needs as an input."""
    if name in signature.categories:
        return signature.categories.index(name)
    if not name and len(signature.categories) == 1:
        return 0
    raise ValueError(
        f"the network must be told what kind of shape it sees, --category, one of {', '.join(signature.categories)}; got "
        f"{name or 'none'}."
    )


def in_words(row: dict[str, Any]) -> str:
    """A line on a labelled file."""
    order = sorted(row["classes"].items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {100 * count / row['points']:.1f} %" for name, count in order)
    text = f"{row['file']}: {row['points']:,} points labelled in {row['out']}: {shares}"
    if figures := row.get("against its labels"):
        text += f"; against the labels in the file: {metrics.in_a_line(figures)}"
    return text
