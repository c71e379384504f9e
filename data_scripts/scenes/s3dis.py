"""`dropfold data s3dis --source Stanford3dDataset_v1.2_Aligned_Version.zip`: makes data/local/s3dis.h5.

S3DIS as distributed, archive or folder: Area_N/ROOM/Annotations/CLASS_I.txt with lines `x y z r g b`. Names that are none of
the 13 classes (stairs) become clutter, with a note. A line with a byte that no number has (Area_5/hallway_6) is mended
where one flipped bit makes it a row, with a note that names file and line; any other bad line is an error. Rooms are
shifted to their minimum. Area 5 tests (--test-area names another), 12 % of the rooms of the others validate.

A zip is not unpacked, rooms are read in parallel, and one that is finished is not read again: a conversion that was
stopped goes on. The same script converts every folder of this layout, e.g. that of `dropfold data rooms`; a file
about.json beside its areas states source, credits and rebuild of such a one.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropfold.data_scripts.readers.units import METRES, Unit, in_metres, note_odd_extent
from dropfold.data_scripts.scenes import room_jobs
from dropfold.data_scripts.scenes.room_jobs import RoomJob
from dropfold.data_scripts.schemas import splits
from dropfold.data_scripts.schemas.scene_schema import Scenes, SchemaError
from dropfold.data_scripts.work import pieces
from dropfold.data_scripts.work.folders import (
    FORBIDDEN,
    NOWHERE,
    SPECIAL,
    File,
    Unread,
    account,
    name_some,
    note_alike,
    printable,
    shorten,
)
from dropfold.data_scripts.work.jobs import Advance
from dropfold.data_scripts.work.members import Members, open_members

CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board", "clutter",
)  # fmt: skip
CLUTTER = CLASSES.index("clutter")
SHOWN = 5  # bad lines of a file that are quoted
COPY = ", not read"  # how the note of a copy ends
ANNOTATION = re.compile(r"(?:.*/)?Area_(\d+)/([^/]+)/Annotations/([^/]+)", re.S)
ROOM = re.compile(r"((?:.*/)?Area_(\d+)/([^/]+))/[^/]+\.txt", re.S)
FOLDER = re.compile(r"(?:.*/)?Area_(\d+)(?:/([^/]+))?", re.S)
BESIDE = re.compile(r"(?:.*/)?(?:Area_\d+/[^/]*_alignmentAngle\.txt|about\.json|ReadMe\.txt)", re.S)
NO_TEXT = "no .txt among the annotations"
ELSEWHERE = "not at Area_N/ROOM/Annotations/CLASS_I.txt"
LOST = (FORBIDDEN, NOWHERE, SPECIAL)  # of an annotation: its room would lack a part


@dataclass
class Options:
    """Make the S3DIS data set, or that of any folder of its layout."""

    source: Path
    """Stanford3dDataset_v1.2_Aligned_Version, the folder or its archive."""
    out: Path = Path("data/local/s3dis.h5")
    """The file to write."""
    test_area: int | None = None
    """The area that tests; None: area 5, or the last one."""
    validation: float = 0.12
    """Share of the other areas' rooms for validation; 0: none."""
    unit: Unit | None = None
    """Of the coordinates; None: metres, and a room of another size than a room's asks for it."""
    leave_out: tuple[str, ...] = ()
    """Rooms to leave out, e.g. Area_3/office_1."""
    workers: int = 0
    """Rooms that are read at a time; 0: one a core."""


class Listing(NamedTuple):
    """What the source holds: its rooms, and what is said of all other files."""

    jobs: list[RoomJob]
    files: dict[str, list[File]]
    """The annotations of each room, by its name."""
    unread: list[Unread]
    beside: list[str]
    """What the distribution holds that is not needed: the points of a room without labels, the angles of an area."""
    notes: list[str]


def list_rooms(source: Members, unit: Unit | None = None) -> Listing:
    """Every file of the source: an annotation of a room, in the order of area and name, or what else it is."""
    held: dict[tuple[int, str], list[File]] = defaultdict(list)
    missing: dict[tuple[int, str], list[str]] = defaultdict(list)
    unread, beside = list(source.unread), []
    for file in source.files.values():
        if found := ANNOTATION.fullmatch(file.name):
            if file.name.endswith(".txt"):
                held[int(found[1]), found[2]].append(file)
            else:
                held[int(found[1]), found[2]] += []
                unread.append(Unread(file.name, NO_TEXT))
        elif found := ROOM.fullmatch(file.name):
            held[int(found[2]), found[3]] += []  # a room, if it has annotations or not
            beside.append(file.name)
        elif BESIDE.fullmatch(file.name):
            beside.append(file.name)
        else:
            unread.append(Unread(file.name, ELSEWHERE))
    for one in source.unread:
        if one.reason in LOST and (found := ANNOTATION.fullmatch(one.name)):
            missing[int(found[1]), found[2]].append(f"{source.where(one.name)} cannot be read: {one.reason}.")
            held[int(found[1]), found[2]] += []
    if not any(held.values()):
        said = f"{source.source} holds no Area_N/ROOM/Annotations/CLASS_I.txt; is it the aligned S3DIS?"
        raise SchemaError("\n".join([said, *account(0, unread, beside)]))
    jobs = []
    for (area, room), files in sorted(held.items()):
        places = sorted({file.name.rpartition("/")[0] for file in files})
        if len(places) > 1:
            raise SchemaError(
                f"{source.source} holds Area_{area}/{room} twice: {' and '.join(places)}; remove one."
            )

        def read(
            advance: Advance, files: Sequence[File] = files, lost: Sequence[str] = tuple(missing[area, room])
        ) -> dict[str, np.ndarray]:
            if lost:
                raise SchemaError("\n    ".join(lost))
            return read_room(source, files, unit, advance)

        key = f"{unit} {[(printable(file.name.rpartition('/')[2]), file.size, file.stamp) for file in files]}"
        name = f"Area_{area}/{printable(room)}"
        jobs.append(RoomJob(name, key, sum(file.size for file in files), read, area))
    empty = [
        name
        for name in source.folders
        if (found := FOLDER.fullmatch(name))
        and (int(found[1]), found[2] or "") not in held
        and (found[2] or not any(area == int(found[1]) for area, _ in held))
    ]
    noun = "folder holds" if len(empty) == 1 else "folders hold"
    notes = [f"{len(empty)} {noun} no annotations: {name_some([*map(shorten, empty)])}"] if empty else []
    names = [f"Area_{area}/{room}" for area, room in held]
    notes += note_alike(names, "rooms")
    of_room = {job.name: held[key] for job, key in zip(jobs, sorted(held))}
    return Listing(jobs, of_room, unread, beside, notes)


def read_room(
    source: Members, files: Sequence[File], unit: Unit | None, advance: Advance
) -> dict[str, np.ndarray]:
    """One room of its annotation files; a `SchemaError` names files and lines that cannot be read."""
    notes: list[str] = []
    faults: list[str] = []
    files = _texts(source, files, notes, faults)
    if not files and not faults:
        raise SchemaError("the room has no points: it holds no Annotations/CLASS_I.txt.")
    xyz, rgb, label = [], [], []
    unknown: Counter[str] = Counter()
    for file in files:
        where = source.where(file.name)
        name = re.sub(r"(_\d+)?( \(\d+\))?\.txt$", "", file.name.rpartition("/")[2])
        if name not in CLASSES:
            unknown[name] += 1
        count = 0
        for rows in _rows(source, file, where, notes, faults, advance):
            xyz.append(rows[:, :3].copy())
            rgb.append(rows[:, 3:].astype(np.uint8))
            count += len(rows)
        label.append(np.full(count, CLASSES.index(name) if name in CLASSES else CLUTTER, dtype=np.uint8))
        if count == 0:
            notes.append(f"{where} holds no points")
    if faults:
        raise SchemaError("\n    ".join(faults))
    folder = source.where(files[0].name.rpartition("/")[0])
    notes += [f"{folder}: {n} of {name}, none of the 13 classes, now clutter" for name, n in unknown.items()]
    if not any(len(points) for points in xyz):
        raise SchemaError(f"{folder}: the room has no points.")
    low = np.min([points.min(0) for points in xyz if len(points)], axis=0)
    high = np.max([points.max(0) for points in xyz if len(points)], axis=0)
    in_metres(folder, np.stack([low, high]), unit)
    scale = METRES[unit or "m"]
    notes += note_odd_extent(folder, (high - low) * scale, unit)
    for i, points in enumerate(xyz):  # one by one: the double form is not kept
        xyz[i] = ((points - low) * scale).astype(np.float32)
    return room_jobs.pack_room(
        np.concatenate(xyz), low * scale, np.concatenate(rgb), np.concatenate(label), notes
    )


def _texts(source: Members, files: Sequence[File], notes: list[str], faults: list[str]) -> list[File]:
    """The annotations among the files, without the copies that file managers make, "wall_3 (1).txt"."""
    by_name = {file.name.rpartition("/")[2]: file for file in files}
    found = []
    for name, file in by_name.items():
        where = source.where(file.name)
        of = re.sub(r" \(\d+\)\.txt$", ".txt", name)
        if of == name or of not in by_name:
            found.append(file)
        elif file.size == by_name[of].size and _read(source, file) == _read(source, by_name[of]):
            notes.append(f"{where} is a copy of {of}{COPY}")
        else:
            faults.append(f"{where} is another file than {of}; remove one of them.")
    return found


def _read(source: Members, file: File) -> bytes:
    with source.open(file.name) as opened:
        return opened.read()


def _rows(
    source: Members, file: File, where: str, notes: list[str], faults: list[str], advance: Advance
) -> Iterator[np.ndarray]:
    """The rows of an annotation file in pieces [k, 6]; what was mended goes to `notes`, what cannot be to `faults`."""
    from dropfold.data_scripts.readers import text_table

    with source.open(file.name) as opened:
        before = bad_lines = 0
        for rows, bad in text_table.read_pieces(opened, 6, colour=3):
            if len(bad) == text_table.MOST_BAD_LINES:  # the reader counts no more of them
                faults.append(
                    f"{where} has {len(bad)} bad lines or more, the first is line {bad[0].line}; is it another kind of file?"
                )
                return
            for row, line, text in bad:
                quoted = text.strip().decode("latin-1").encode("unicode_escape").decode()[:60]
                mended = text_table.mend_line(text, 6, colour=3)
                if mended is not None:
                    rows[row] = mended
                    notes.append(
                        f"{where}, line {line}: '{quoted}' read as {' '.join(f'{v:g}' for v in mended)}"
                    )
                    continue
                rows[row] = 0  # the room is not made
                bad_lines += 1
                if bad_lines <= SHOWN:
                    faults.append(
                        f"{where}, line {line}: '{quoted}' is not `x y z r g b`, six numbers with colours 0 .. 255."
                    )
            if bad_lines > SHOWN:
                faults.append(f"{where} has more such lines; is it another kind of file?")
                return
            yield rows
            at = min(before + text_table.BYTES_PER_PIECE, file.size)
            advance(at - before)
            before = at


def read_about(source: Members) -> dict[str, str]:
    """What the folder states of itself in about.json; S3DIS has none."""
    name = next((name for name in source.files if re.fullmatch(r"(?:[^/]+/)?about\.json", name)), None)
    if name is None:
        return {}
    try:
        with source.open(name) as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise TypeError(f"it is a {type(found).__name__}")
        return {key: str(found[key]) for key in ("source", "credits", "rebuild") if key in found}
    except (ValueError, TypeError) as error:
        raise SchemaError(
            f"{source.where(name)} is not JSON with source, credits and rebuild ({error})."
        ) from None


def _path_argument(path: Path) -> str:
    """A path as the command that repeats this has it: as it was given, or of an absolute one the name."""
    name = path.resolve().name if path.is_absolute() or path.name in ("", "..") else str(path)
    return shlex.quote(printable(name))


@pieces.releasing()
def convert(options: Options) -> tuple[Scenes, list[str]]:
    """Make `options.out`; returns it, and a sentence for all that was mended, renamed or left out."""
    with open_members(options.source) as source:
        listed = list_rooms(source, options.unit)
        jobs = room_jobs.leave_out_rooms(listed.jobs, options.leave_out)
        areas = np.array([job.area for job in jobs])
        split = splits.split_by_area(areas, options.test_area, options.validation)
        arguments = [f"--source {_path_argument(options.source)}"]
        arguments += [f"--test-area {options.test_area}"] if options.test_area is not None else []
        arguments += [f"--validation {options.validation:g}"] + (
            [f"--unit {options.unit}"] if options.unit else []
        )
        arguments += (
            [f"--leave-out {' '.join(map(shlex.quote, options.leave_out))}"] if options.leave_out else []
        )
        command = f"dropfold data s3dis {' '.join(arguments)} --out {_path_argument(options.out)}"
        provenance = {
            "source": "S3DIS, Stanford3dDataset_v1.2_Aligned_Version",
            "credits": "Armeni et al., CVPR 2016, http://buildingparser.stanford.edu/dataset.html; not to be redistributed",
            **read_about(source),
        }
        provenance["rebuild"] = f"{provenance['rebuild']}; {command}" if "rebuild" in provenance else command
        part = room_jobs.read_rooms(options.out, jobs, options.workers)
        scenes, notes = room_jobs.write_rooms(options.out, jobs, part, list(CLASSES), provenance, split)
    left_out = sum(len(listed.files[name]) for name in options.leave_out)
    copies = sum(note.endswith(COPY) for note in notes)
    read = sum(map(len, listed.files.values())) - left_out - copies
    notes += listed.notes + account(read, listed.unread, listed.beside, failed=copies, left_out=left_out)
    return scenes, [*notes, *(f"{name} was left out" for name in options.leave_out)]


def main(options: Options) -> None:
    room_jobs.run(options, convert)
