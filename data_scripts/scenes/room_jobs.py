"""Rooms become a scene file: read in parallel, each kept when it is finished, then written one after the other."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.schemas import scene_schema
from dropfold.data_scripts.schemas.copies import note_copies
from dropfold.data_scripts.schemas.scene_schema import Scenes
from dropfold.data_scripts.work import jobs as work
from dropfold.data_scripts.work import pieces
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import print_line
from dropfold.data_scripts.work.jobs import Job


@dataclass(frozen=True)
class RoomJob(Job):
    """A room to be read, see `room`."""

    area: int = 1
    split: int | None = None


def pack_room(
    points: np.ndarray, origin: np.ndarray, colour: np.ndarray, label: np.ndarray, notes: list[str]
) -> dict[str, np.ndarray]:
    """A room as a job gives it: points [m, 3] float32 in metres from `origin`; what was odd, a sentence each."""
    odd = np.array(notes, dtype=str)
    return {"points": points, "origin": origin, "colour": colour, "label": label, "notes": odd}


def leave_out_rooms(jobs: list[RoomJob], leave_out: Sequence[str]) -> list[RoomJob]:
    """The jobs without those that --leave-out names."""
    unknown = sorted(set(leave_out) - {job.name for job in jobs})
    if unknown:
        raise SchemaError(
            f"--leave-out names {unknown[0]!r}, which is not there; there is e.g. {jobs[0].name}."
        )
    left = [job for job in jobs if job.name not in leave_out]
    if not left:
        raise SchemaError("--leave-out names all there are; none is left.")
    return left


def read_rooms(out: Path, jobs: list[RoomJob], workers: int) -> Path:
    """Read all rooms that are not yet finished; returns their folder, or raises a `SchemaError` of all faults."""
    return work.run_jobs(
        out,
        jobs,
        workers,
        "rooms",
        lambda names: f"; or leave them out: --leave-out {' '.join(map(shlex.quote, names))}",
    )


def write_rooms(
    out: Path,
    jobs: list[RoomJob],
    part: Path,
    class_names: list[str],
    provenance: dict[str, str],
    split: np.ndarray | None = None,
    codes: np.ndarray | None = None,
) -> tuple[Scenes, list[str]]:
    """Write `out` of the finished rooms in the order of `jobs`. Returns it, and all that was odd, a sentence each.

    split [n]: of each room; None: by area. codes [classes], ascending: the labels that were read, one a class; None: they
    are uint8 0 .. classes - 1.
    """
    notes = []
    with scene_schema.writer(
        out, class_names, **provenance, folder=part, codes=[] if codes is None else codes.tolist()
    ) as writer:
        for i, job in enumerate(track(jobs, "writing rooms", console=Console(stderr=True))):
            found = work.load_piece(part, job)
            one = job.split if split is None else int(split[i])
            label = found["label"]
            if codes is not None:
                label = np.searchsorted(codes, label).astype(np.uint8)
            writer.add(job.name, job.area, found["points"], found["colour"], label, one, found["origin"])
            notes += found["notes"].tolist()
    pieces.end(part)
    scenes = scene_schema.read(out)
    return scenes, notes + note_copies(scenes.digest, scenes.split, scenes.name, "room", "rooms")


def run(options: Any, convert: Callable[[Any], tuple[Scenes, list[str]]]) -> None:
    """The command line of a script: convert, say what was made and what was odd; faults are sentences."""
    with work.advise_restart():
        scenes, notes = convert(options)
    counts = [len(scenes.of(split)) for split in range(3)]
    print_line(
        f"{options.out}: {counts} rooms to train, validate and test, {int(scenes.ptr[-1]):,} points, "
        f"{len(scenes.class_names)} classes, {len(np.unique(scenes.area))} areas"
    )
    classes = zip(scenes.class_names, scenes.codes)
    named = [name if name == str(code) else f"{name} ({code})" for name, code in classes]
    print(f"classes, and their labels in the files: {', '.join(named)}")
    for note in notes:
        print_line(f"note: {note}")
