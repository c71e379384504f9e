"""`dropfold data scenes --source FOLDER --out X.h5`: a data set from one's own labelled scenes.

Files of any kind that `scene_file` reads (PLY, LAS, LAZ, PCD, XYZ, TXT, CSV, NPY), each with a label a point, and
Semantic3D's scan.txt with scan.labels. A folder is an area: Area_3 is area 3, others are numbered in their order; so is
the Area_3 of Area_3_office_1.npy, as yanx27's scripts write S3DIS's rooms. Scenes in folders train, val(idation) and
test are so split; otherwise the last area tests, or of one area a fifth of its scenes.

The classes are the labels found, by the names of --classes where it is given; their numbers, e.g. 2, 5, 6 in LAS, are kept,
and `dropfold predict` writes them. Scenes without colour become gray. Scenes
are read in parallel, and one that is finished is not read again: a conversion that was stopped goes on.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout, parse_layout
from dropfold.data_scripts.readers.scene_file import READ_SUFFIXES, read_scene
from dropfold.data_scripts.readers.units import Unit, in_metres, note_odd_extent
from dropfold.data_scripts.scenes import room_jobs
from dropfold.data_scripts.scenes.room_jobs import RoomJob
from dropfold.data_scripts.schemas import splits
from dropfold.data_scripts.schemas.scene_schema import Scenes
from dropfold.data_scripts.schemas.split_folders import SplitFolders, note_empty, place_files
from dropfold.data_scripts.work import jobs as work
from dropfold.data_scripts.work import pieces
from dropfold.data_scripts.work.archive import name_members, open_as_folder
from dropfold.data_scripts.work.errors import SchemaError, ShapeError
from dropfold.data_scripts.work.folders import (
    OTHER_KIND,
    Unread,
    account,
    note_alike,
    printable,
    suffix_of,
    walk,
)
from dropfold.data_scripts.work.jobs import Advance, load_piece

GRAY = 127
AREA = re.compile(r"[Aa]rea_?([1-9]\d*)")
LAS = {
    0: "never classified", 1: "unclassified", 2: "ground", 3: "low vegetation", 4: "medium vegetation",
    5: "high vegetation", 6: "building", 7: "low noise", 9: "water", 10: "rail", 11: "road", 13: "wire guard", 14: "wire",
    15: "tower", 17: "bridge", 18: "high noise",
}  # fmt: skip
LAS_UNSURE = (0, 1)  # nobody has classified such points; they are seldom meant as a class


@dataclass
class Options:
    """Make a data set from a folder (or archive) of one's own labelled scenes."""

    source: Path
    """The folder, or a zip or tar of it."""
    out: Path
    """The HDF5 file to write."""
    classes: tuple[str, ...] = ()
    """Names of the labels: `ground car` of 0 and 1, `2=ground 6=building` of 2 and 6; none: every label found is a class, by
    its number, in LAS by its meaning."""
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
    split_folders: SplitFolders = "auto"
    """Whether folders called train, val or test are splits (yes) or areas (no); auto: as they stand, see the docs."""
    workers: int = 0
    """Scenes that are read at a time; 0: one a core."""


class Listing(NamedTuple):
    """What a folder holds: the scenes, all other files with their reasons, and a sentence for what was guessed."""

    jobs: list[RoomJob]
    unread: list[Unread]
    beside: list[str]
    """Labels of scenes, in files beside them."""
    notes: list[str]


def list_scenes(folder: Path, options: Options) -> Listing:
    """Every file under `folder`: a scene in the order of their paths, beside one, or with the reason why it is not read."""
    tree = walk(folder)
    names = [file.name for file in tree.files if suffix_of(file.name) in READ_SUFFIXES]
    scenes = {os.path.splitext(name)[0] for name in names}
    beside, unread = [], list(tree.unread)
    for file in tree.files:
        stem, suffix = os.path.splitext(file.name)
        if suffix == ".labels" and stem in scenes:
            beside.append(file.name)
        elif suffix.lower() not in READ_SUFFIXES:
            unread.append(Unread(file.name, OTHER_KIND))
    parents = [tuple(name.split("/")[:-1]) for name in names]
    places, notes = place_files(parents, options.split_folders, noun="area", keeps_whole=AREA)
    if not names:
        said = [f"{options.source} holds no scenes; expected files {', '.join(READ_SUFFIXES)}."]
        raise SchemaError("\n".join(said + account(0, unread, beside)))
    layout = parse_layout(options.columns, options.drop_nan)
    areas: list[str] = []
    jobs = []
    for name, place in zip(names, places):
        path = folder / name
        named = re.match(r"(Area_\d+)_", path.name)
        area = place.inner[0] if place.inner else named[1] if named else ""
        areas += [area] if area not in areas else []
        labels = path.with_suffix(".labels")
        key = f"{options.unit} {options.ignore} {layout}"
        for part in (path, *([labels] if labels.exists() else [])):
            key += f" {work.fingerprint(part, unpacked=not options.source.is_dir())}"

        def read(advance: Advance, path: Path = path) -> dict[str, np.ndarray]:
            try:
                found = read_labelled(path, options.unit, options.ignore, advance, layout)
                said = [name_members(note, folder, options.source) for note in found["notes"].tolist()]
                return found | {"notes": np.array(said, dtype=str)}
            except InterruptedError:  # the conversion is being stopped
                raise
            except OSError as error:
                raise ShapeError(f"{path} cannot be read ({error.strerror or error}).") from None

        size = path.stat().st_size
        jobs.append(RoomJob(printable(name), key, size, read, areas.index(area) + 1, place.split))
    numbered = [AREA.fullmatch(area) for area in areas]
    if all(numbered):
        numbers = [int(match[1]) for match in numbered if match]
        jobs = [replace(job, area=numbers[job.area - 1]) for job in jobs]
    notes += note_empty(tree.folders, parents, places, "scenes")
    notes += note_alike(areas, "areas")
    return Listing(jobs, unread, beside, notes)


def read_labelled(
    path: Path, unit: Unit | None, ignore: Sequence[int], advance: Advance, layout: Layout = AS_FOUND
) -> dict[str, np.ndarray]:
    """One scene; its labels as the file has them."""
    notes: list[str] = []
    scene = read_scene(path, layout, notes)
    points, colour, label = scene
    if label is None:
        las = path.suffix.lower() in (".las", ".laz")
        why = ": its classification is 0 (never classified) at every point" if las else ""
        read_as = "".join(f" ({note.removeprefix(f'{path}: ')})" for note in notes)
        raise ShapeError(
            f"{path} has no labels{why}{read_as}; name a column or property `label` (of tables also by --columns), or leave "
            "the scene out."
        )
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


def name_codes(words: Sequence[str]) -> dict[int, str]:
    """The name of each code, of the least one first, as --classes says: of 0 and 1 by `ground car`, of 2 and 6 by `2=ground
    6=building`."""
    coded = [re.fullmatch(r"(-?[0-9]+)=(.+)", word) for word in words]
    if any(coded) and None in coded:
        raise SchemaError(
            f"--classes has {words[coded.index(None)]!r} beside CODE=NAME; give every class its code, or names alone for "
            "the labels 0, 1, 2, ..."
        )
    codes = [int(match[1]) for match in coded if match] or list(range(len(words)))
    names = [match[2] for match in coded if match] or list(words)
    for value, times in Counter([*codes, *names]).items():
        if times > 1:
            raise SchemaError(f"--classes has {value!r} twice; a class has one code and one name.")
    if largest := [code for code in codes if abs(code) > 2**53]:
        raise SchemaError(f"--classes names {largest[0]}, which is beyond 2^53: no label that can be read.")
    return dict(sorted(zip(codes, names)))


def choose_classes(
    jobs: list[RoomJob], found: list[np.ndarray], named: dict[int, str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """The codes that are classes, ascending, their names, and what is odd about them. found: the codes of each scene; named:
    those of --classes."""
    if named:
        codes = np.array(list(named))
        for job, values in zip(jobs, found):
            if not np.isin(values, codes).all():
                in_order = codes[0] == 0 and codes[-1] == len(codes) - 1
                listed = f"0 .. {codes[-1]}" if in_order else ", ".join(map(str, codes[:20]))
                raise SchemaError(
                    f"{job.name} has labels {', '.join(map(str, values[:20]))}, and --classes names {listed}; name all of "
                    "them, those of 0, 1, 2, ... in their order or any as CODE=NAME, or leave some out with --ignore."
                )
        return codes, list(named.values()), []
    codes = np.unique(np.concatenate(found))
    if len(codes) > 255:
        raise SchemaError(
            f"{len(codes)} labels were found, {codes[0]} .. {codes[-1]}, 255 is the most; are they labels?"
        )
    if not all(job.name.lower().endswith((".las", ".laz")) for job in jobs):
        return codes, [str(code) for code in codes], []
    notes = [
        f"{LAS[code]} ({code}) is a class; --ignore {code} leaves its points out"
        for code in LAS_UNSURE
        if code in codes
    ]
    return codes, [LAS.get(code, str(code)) for code in codes.tolist()], notes


@pieces.releasing()
def convert(options: Options) -> tuple[Scenes, list[str]]:
    """Make `options.out`; returns it, and a sentence for all that was odd."""
    named = name_codes(options.classes)
    with open_as_folder(options.source) as folder:
        listed = list_scenes(folder, options)
        jobs = room_jobs.leave_out_rooms(listed.jobs, options.leave_out)
        split = _split(jobs, options.test_area)
        part = room_jobs.read_rooms(options.out, jobs, options.workers)
    found = [np.unique(load_piece(part, job)["label"]) for job in jobs]
    codes, names, odd = choose_classes(jobs, found, named)
    arguments = [f"--source {shlex.quote(printable(options.source.resolve().name))} --out FILE"]
    arguments += [f"--classes {' '.join(map(shlex.quote, options.classes))}"] if options.classes else []
    arguments += [f"--ignore {' '.join(map(str, options.ignore))}"] if options.ignore else []
    arguments += [f"--unit {options.unit}"] if options.unit else []
    arguments += [f"--columns {shlex.quote(options.columns)}"] if options.columns else []
    arguments += ["--drop-nan"] if options.drop_nan else []
    arguments += [f"--test-area {options.test_area}"] if options.test_area is not None else []
    arguments += [f"--leave-out {' '.join(map(shlex.quote, options.leave_out))}"] if options.leave_out else []
    arguments += [f"--split-folders {options.split_folders}"] if options.split_folders != "auto" else []
    origin = printable(options.source.resolve().name)
    provenance = {
        "source": f"the folder or archive {origin}",
        "credits": "one's own",
        "rebuild": f"dropfold data scenes {' '.join(arguments)}",
    }

    scenes, notes = room_jobs.write_rooms(options.out, jobs, part, names, provenance, split, codes)
    notes += odd
    left_out = len(listed.jobs) - len(jobs)
    notes += listed.notes + account(len(jobs), listed.unread, listed.beside, left_out=left_out)
    if len(jobs) == 1:
        notes.append("one scene trains, and none is left to test on; cut it in pieces for that")
    return scenes, notes


def _split(jobs: list[RoomJob], test_area: int | None) -> np.ndarray:
    """What the folders state, with validation carved where they state none; or else by area."""
    return splits.split_as_stated(
        [job.split for job in jobs],
        lambda: splits.split_by_area(np.array([job.area for job in jobs]), test_area),
        lambda split: splits.carve_rooms(split, 0.12),
    )


def main(options: Options) -> None:
    room_jobs.run(options, convert)
