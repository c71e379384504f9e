"""`dropfold data scenes --source FOLDER --out X.h5`: a data set from one's own labelled scenes.

Files of any kind that `scene_file` reads (PLY, LAS, LAZ, PCD, XYZ, TXT, CSV, NPY), each with a label a point, and
Semantic3D's scan.txt with scan.labels. A folder is an area: Area_3 is area 3, others are numbered in their order; so is
the Area_3 of Area_3_office_1.npy, as yanx27's scripts write S3DIS's rooms. Scenes in folders train, val(idation) and
test are so split; otherwise the last area tests, or of one area a fifth of its scenes.

The classes are the labels found, by the names of --classes where it is given. Scenes without colour become gray. Scenes
are read in parallel, and one that is finished is not read again: a conversion that was stopped goes on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout, parse_layout
from dropfold.data_scripts.readers.scene_file import (
    READ_SUFFIXES,
    Unit,
    in_metres,
    note_odd_extent,
    read_scene,
)
from dropfold.data_scripts.scenes import room_jobs
from dropfold.data_scripts.scenes.room_jobs import RoomJob
from dropfold.data_scripts.schemas import scene_schema
from dropfold.data_scripts.schemas.h5_file import SPLIT_OF_FOLDER
from dropfold.data_scripts.schemas.scene_schema import TRAIN, VALIDATION, Scenes
from dropfold.data_scripts.work import jobs as work
from dropfold.data_scripts.work.archive import open_as_folder
from dropfold.data_scripts.work.errors import SchemaError, ShapeError
from dropfold.data_scripts.work.folders import list_files
from dropfold.data_scripts.work.jobs import Advance, load_piece

GRAY = 127
LAS = {
    0: "never classified", 1: "unclassified", 2: "ground", 3: "low vegetation", 4: "medium vegetation",
    5: "high vegetation", 6: "building", 7: "low noise", 9: "water", 10: "rail", 11: "road", 13: "wire guard", 14: "wire",
    15: "tower", 17: "bridge", 18: "high noise",
}  # fmt: skip


@dataclass
class Options:
    """Make a data set from a folder (or archive) of one's own labelled scenes."""

    source: Path
    """The folder, or a zip or tar of it."""
    out: Path
    """The HDF5 file to write."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, 2, ...; none: every label found is a class, by its number, in LAS by its meaning."""
    ignore: tuple[int, ...] = ()
    """Labels whose points are left out, e.g. 0 where it means unlabelled."""
    unit: Unit | None = None
    """Of the coordinates; None: metres, and a scene of another size than a scene's asks for it."""
    columns: str | None = None
    """Of text tables and .npy arrays, "x y z i r g b label" say, - leaves one out; None: by their names, or a guess that is
    said."""
    drop_nan: bool = False
    """Leave out points with numbers that are not finite; otherwise they are a fault."""
    test_area: int | None = None
    """The area that tests; None: area 5, or the last one. Not where folders state the split."""
    leave_out: tuple[str, ...] = ()
    """Scenes to leave out, by their paths within the source."""
    workers: int = 0
    """Scenes that are read at a time; 0: one a core."""


def list_scenes(folder: Path, options: Options) -> list[RoomJob]:
    """The scenes, in the order of their paths."""
    found = list_files(folder, READ_SUFFIXES)
    if not found:
        raise SchemaError(f"{options.source} holds no scenes; expected files {', '.join(READ_SUFFIXES)}.")
    layout = parse_layout(options.columns, options.drop_nan)
    areas: list[str] = []
    jobs = []
    for path in found:
        inner = path.relative_to(folder)
        split = next(
            (SPLIT_OF_FOLDER[part.lower()] for part in inner.parts[:-1] if part.lower() in SPLIT_OF_FOLDER),
            None,
        )
        named = re.match(r"(Area_\d+)_", path.name)
        area = next(
            (part for part in inner.parts[:-1] if part.lower() not in SPLIT_OF_FOLDER),
            named[1] if named else "",
        )
        areas += [area] if area not in areas else []
        beside = path.with_suffix(".labels")
        key = f"{options.unit} {options.ignore} {layout}"
        for part in (path, *([beside] if beside.exists() else [])):
            key += f" {work.fingerprint(part, unpacked=not options.source.is_dir())}"

        def read(advance: Advance, path: Path = path) -> dict[str, np.ndarray]:
            return read_labelled(path, options.unit, options.ignore, advance, layout)

        jobs.append(RoomJob(inner.as_posix(), key, path.stat().st_size, read, areas.index(area) + 1, split))
    numbered = [re.fullmatch(r"[Aa]rea_?([1-9]\d*)", area) for area in areas]
    if all(numbered):
        numbers = [int(match[1]) for match in numbered if match]
        jobs = [replace(job, area=numbers[job.area - 1]) for job in jobs]
    return jobs


def read_labelled(
    path: Path, unit: Unit | None, ignore: Sequence[int], advance: Advance, layout: Layout = AS_FOUND
) -> dict[str, np.ndarray]:
    """One scene; its labels as the file has them."""
    notes: list[str] = []
    scene = read_scene(path, layout, notes)
    points, colour, label = scene
    if label is None:
        raise ShapeError(f"{path} has no labels; name a column or property `label`, or leave the scene out.")
    if ignore:
        kept = ~np.isin(label, ignore)
        if not kept.any():
            raise ShapeError(f"{path} has no points but those that --ignore leaves out.")
        if not kept.all():
            notes.append(f"{path}: {int((~kept).sum()):,} of {len(kept):,} points left out by --ignore")
        points, colour, label = points[kept], None if colour is None else colour[kept], label[kept]
    points = in_metres(path, points, unit, scene.unit)
    notes += note_odd_extent(path, np.ptp(points, axis=0), unit)
    if colour is None:
        notes.append(f"{path} has no colours, now gray; train with --no-colour to label more of the kind")
        colour = np.full((len(points), 3), GRAY, dtype=np.uint8)
    advance(path.stat().st_size)
    low = points.min(0)
    return room_jobs.pack_room(
        (points - low).astype(np.float32), low.astype(np.float64), colour, label, notes
    )


def choose_classes(
    jobs: list[RoomJob], found: list[np.ndarray], class_names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """The labels that are classes, and their names. found: those of each scene."""
    if class_names:
        for job, values in zip(jobs, found):
            if values[0] < 0 or values[-1] >= len(class_names):
                raise SchemaError(
                    f"{job.name} has labels {', '.join(map(str, values[:20]))}, and --classes names "
                    f"0 .. {len(class_names) - 1}; name all of them in their order, or leave some out with --ignore."
                )
        return np.arange(len(class_names)), list(class_names)
    values = np.unique(np.concatenate(found))
    if len(values) > 255:
        raise SchemaError(
            f"{len(values)} labels were found, {values[0]} .. {values[-1]}, 255 is the most; are they labels?"
        )
    las = all(job.name.lower().endswith((".las", ".laz")) for job in jobs)
    return values, [LAS.get(value, str(value)) if las else str(value) for value in values.tolist()]


def convert(options: Options) -> tuple[Scenes, list[str]]:
    """Make `options.out`; returns it, and a sentence for all that was odd."""
    with open_as_folder(options.source) as folder:
        jobs = room_jobs.leave_out_rooms(list_scenes(folder, options), options.leave_out)
        split = _split(jobs, options.test_area)
        part = room_jobs.read_rooms(options.out, jobs, options.workers)
    found = [np.unique(load_piece(part, job)["label"]) for job in jobs]
    known, names = choose_classes(jobs, found, options.classes)
    arguments = [f"--source {shlex.quote(options.source.resolve().name)} --out FILE"]
    arguments += [f"--classes {' '.join(map(shlex.quote, options.classes))}"] if options.classes else []
    arguments += [f"--ignore {' '.join(map(str, options.ignore))}"] if options.ignore else []
    arguments += [f"--unit {options.unit}"] if options.unit else []
    arguments += [f"--columns {shlex.quote(options.columns)}"] if options.columns else []
    arguments += ["--drop-nan"] if options.drop_nan else []
    arguments += [f"--test-area {options.test_area}"] if options.test_area is not None else []
    arguments += [f"--leave-out {' '.join(map(shlex.quote, options.leave_out))}"] if options.leave_out else []
    provenance = {
        "source": f"the folder or archive {options.source.resolve().name}",
        "credits": "one's own",
        "rebuild": f"dropfold data scenes {' '.join(arguments)}",
    }

    def relabel(label: np.ndarray) -> np.ndarray:
        return np.searchsorted(known, label).astype(np.uint8)

    scenes, notes = room_jobs.write_rooms(options.out, jobs, part, names, provenance, split, relabel)
    if len(jobs) == 1:
        notes.append("one scene trains, and none is left to test on; cut it in pieces for that")
    return scenes, notes


def _split(jobs: list[RoomJob], test_area: int | None) -> np.ndarray:
    """What the folders state, with validation carved where they state none; or else by area."""
    if all(job.split is None for job in jobs):
        return scene_schema.split_by_area(np.array([job.area for job in jobs]), test_area)
    split = np.array([TRAIN if job.split is None else job.split for job in jobs], dtype=np.uint8)
    return split if VALIDATION in split else scene_schema.carve_rooms(split, 0.12)


def main(options: Options) -> None:
    room_jobs.run(options, convert)
