"""Labels for the points of shapes and scenes in files, written beside them (`dropfold predict`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dropfold.data_scripts.readers.scene_file import Unit, check_target, in_metres, read_scene, write_scene
from dropfold.train.config.configs import BlockConfig, Config, PartConfig, Signature
from dropfold.train.scoring import metrics
from dropfold.train.tasks import parts
from dropfold.train.tasks.scene_prediction import label_points, needed, progress


def label_file(
    network: nn.Module,
    config: Config,
    signature: Signature,
    file: Path,
    out: Path,
    *,
    votes: int | None = None,
    category: str = "",
    unit: Unit | None = None,
) -> dict[str, Any]:
    """Label every point of a file, write them to `out` (default: NAME-labelled.ply beside it), and say how many each class
    has got; the file is written whole, at the end, or not at all.

    Raises:
        ValueError: what is wrong with the file, or missing.
    """
    if out.exists() and out.samefile(file):
        raise ValueError(
            f"--out {out} is the file to be labelled, and what else it holds would be lost; give another."
        )
    check_target(out)
    if isinstance(config, PartConfig):
        kind = category_of(category, signature)
        points, cloud = parts.read(file, config, signature)
        label = parts.labelled(network, cloud, kind, config, signature, votes or 1)
        colour, true = None, None
    else:
        assert isinstance(config, BlockConfig)
        scene = read_scene(file)
        points, colour, true = scene
        needed(colour, config, str(file))
        if votes is not None:
            config.votes = votes
        metres = in_metres(file, points, unit)
        with progress(f"labelling {file.name}", len(points)) as advance:
            label = label_points(network, metres, colour, config, len(signature.class_names), advance)
    write_scene(out, points, colour, label)
    counts = np.bincount(label, minlength=len(signature.class_names)).tolist()
    found = {
        "file": str(file),
        "out": str(out),
        "points": len(label),
        "classes": {name: count for name, count in zip(signature.class_names, counts, strict=True) if count},
    }
    # A LAS file without labels says 0 of every point.
    if true is not None and true.any() and true.min() >= 0 and true.max() < len(counts):
        found["against its labels"] = metrics.scene_scores(
            metrics.confusion(true, label, len(counts))
        ).figures
    return found


def target(file: Path, out: Path | None) -> Path:
    """Where the labelled points of a file go: `out`, or NAME-labelled.ply beside it."""
    return file.with_name(f"{file.stem}-labelled.ply") if out is None else out


def category_of(name: str, signature: Signature) -> int:
    """The number of a category, which a network for parts is told."""
    if name in signature.categories:
        return signature.categories.index(name)
    if not name and len(signature.categories) == 1:
        return 0
    raise ValueError(
        f"the network must be told what kind of shape it sees, --category, one of {', '.join(signature.categories)}; got "
        f"{name or 'none'}."
    )


def in_words(found: dict[str, Any]) -> str:
    """A line on a labelled file."""
    order = sorted(found["classes"].items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {100 * count / found['points']:.1f} %" for name, count in order)
    text = f"{found['file']}: {found['points']:,} points labelled in {found['out']}: {shares}"
    if known := found.get("against its labels"):
        figures = (f"{metrics.in_words(name)} {100 * value:.1f} %" for name, value in known.items())
        text += f"; against the labels in the file: {', '.join(figures)}"
    return text
