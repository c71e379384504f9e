"""Labels for the points of shapes and scenes in files, written beside them (`dropfold predict`)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.readers.scene_file import check_target, read_scene, write_scene
from dropfold.data_scripts.readers.units import Unit, in_metres
from dropfold.train.config.configs import BlockConfig, PartConfig, Signature
from dropfold.train.scoring import metrics
from dropfold.train.tasks import parts
from dropfold.train.tasks.scene_prediction import check_colour, label_points, progress
from dropfold.train.tasks.trained import Trained

LAS = (".las", ".laz")
SHOWN = 5  # codes that are named in a line


def label_file(
    trained: Trained,
    file: Path,
    out: Path,
    *,
    votes: int | None = None,
    category: str = "",
    unit: Unit | None = None,
    layout: Layout = AS_FOUND,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Label every point of a file, write the labelled points to `out` (whole, at the end, or not at all), each with the code
    of its class, and return the number of points of each class; of scenes also the scores against the labels in the file.
    overwrite: also in the place of a file that does not say that dropfold wrote it.

    Raises:
        ValueError: what is wrong with the file, or missing.
    """
    config, signature, network = trained.config, trained.signature, trained.network
    if out.exists() and out.samefile(file):
        raise ValueError(
            f"--out {out} is the file to be labelled, and what else it holds would be lost; give another."
        )
    check_target(out, signature.codes, overwrite)
    notes: list[str] = []
    if isinstance(config, PartConfig):
        kind = category_of(category, signature)
        points, cloud = parts.read(file, config, signature, layout)
        label = parts.label_cloud(network, cloud, kind, config, signature, votes or 1)
        colour, target = None, None
    else:
        assert isinstance(config, BlockConfig)
        scene = read_scene(file, layout)
        points, colour, target = scene
        if target is None and file.suffix.lower() in LAS:
            notes.append("its classification is 0 (never classified) at every point, which is not compared")
        check_colour(colour, config, str(file))
        if votes is not None:
            config = replace(config, votes=votes)
        metres = in_metres(file, points, unit, scene.unit)
        with progress(f"labelling {file.name}", len(points)) as advance:
            label = label_points(network, metres, colour, config, len(signature.class_names), advance)
    codes = np.array(signature.codes)
    write_scene(out, points, colour, codes[label], like=file, overwrite=overwrite)
    counts = np.bincount(label, minlength=len(signature.class_names)).tolist()
    row: dict[str, Any] = {
        "file": str(file),
        "out": str(out),
        "points": len(label),
        "classes": {name: count for name, count in zip(signature.class_names, counts, strict=True) if count},
        "codes": dict(zip(signature.class_names, signature.codes, strict=True)),
    }
    if target is not None:
        row |= compare_codes(target, label, codes)
    if out.suffix.lower() in LAS and not codes[label].any():
        notes.append("every label that was written is 0, which LAS takes for never classified")
    if notes := notes + note_lost_codes(signature):
        row["notes"] = notes
    return row


def compare_codes(target: np.ndarray, predicted: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    """Scores of predicted classes against the codes in a file, `target`. Points whose code is none of `codes`, those of the
    classes, do not count; how many they are is by code, the most frequent first."""
    order = np.argsort(codes)
    label = order[np.searchsorted(codes[order], target).clip(max=len(codes) - 1)]
    known = codes[label] == target
    found: dict[str, Any] = {}
    if known.any():
        matrix = metrics.confusion(label[known], predicted[known], len(codes))
        found["against its labels"] = metrics.scene_scores(matrix).figures
    if not known.all():
        other, count = np.unique(target[~known], return_counts=True)
        most = np.argsort(-count, kind="stable")
        found["left out of the scores"] = {str(other[i]): int(count[i]) for i in most}
    return found


def note_lost_codes(signature: Signature) -> list[str]:
    """A note on a run whose classes are named by their codes, and whose data set is of the time before it kept codes."""
    for name, code in zip(signature.class_names, signature.codes, strict=True):
        if re.fullmatch(r"-?[0-9]+", name) and name != str(code):
            return [
                f"class {name} is written as {code}, for the run was trained on a data set that keeps no codes; make it "
                "anew, and train anew"
            ]
    return []


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
    codes = {name: f" ({code})" if name != str(code) else "" for name, code in row["codes"].items()}
    shares = ", ".join(f"{name}{codes[name]} {100 * count / row['points']:.1f} %" for name, count in order)
    words = [f"{row['file']}: {row['points']:,} points labelled in {row['out']}: {shares}"]
    figures, left_out = row.get("against its labels"), row.get("left out of the scores")
    if figures:
        words.append(f"against the labels in the file: {metrics.in_a_line(figures)}")
    if left_out:
        says = "left out of the scores" if figures else "so nothing to compare with"
        words.append(f"{count_by_code(left_out)} (no class of the run) {says}")
    return "; ".join([*words, *row.get("notes", ())])


def count_by_code(points: dict[str, int]) -> str:
    """How many points there are of each code, the most frequent first; of many codes, of the first ones."""
    words = [f"{count:,} point{'s' * (count > 1)} of code {code}" for code, count in points.items()]
    rest = list(points.values())[SHOWN:]
    return ", ".join(words[:SHOWN] + ([f"{sum(rest):,} of {len(rest)} other codes"] if rest else []))
