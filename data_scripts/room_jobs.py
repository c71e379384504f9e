"""Rooms become a scene file: read in parallel, each kept when it is finished, then written one after the other.

A finished room is a file in the folder FILE.part beside the output, renamed when it is whole; a second start reads only
those that are missing or whose source has changed. A room that cannot be read stops nothing: the others are
read, then all faults are said and no file is written, and the next start goes on with what was mended.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn, track

from data_scripts import scene_schema
from data_scripts.archive import ArchiveError
from data_scripts.scene_schema import Scenes, SchemaError
from data_scripts.shapes import ShapeError

Advance = Callable[[int], None]


class Read(NamedTuple):
    """A room as it was read: points [m, 3] float32 in metres from `origin`; what was odd, a sentence each."""

    points: np.ndarray
    origin: np.ndarray
    colour: np.ndarray
    label: np.ndarray
    notes: list[str]


@dataclass(frozen=True)
class Job:
    """A room to be read."""

    name: str
    area: int
    key: str
    """All that the result depends on; a finished room of the same key is not read again."""
    size: int
    """Bytes, for the progress."""
    read: Callable[[Advance], Read]
    """Called with a function that takes the bytes that were read since it was called last."""
    split: int | None = None


def read_all(out: Path, jobs: list[Job], workers: int) -> Path:
    """Read all rooms that are not yet finished; returns their folder, or raises a `SchemaError` of all faults."""
    part = out.with_name(out.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    for left in part.glob("*.tmp"):  # of a start that was killed
        left.unlink()
    todo = [job for job in jobs if not file_of(part, job).exists()]
    faults: dict[str, str] = {}
    columns = (
        *Progress.get_default_columns()[:2],
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total, left_over = sum(job.size for job in jobs), sum(job.size for job in todo)
        task = progress.add_task("reading rooms", total=total, completed=total - left_over)
        stop = threading.Event()

        def advance(count: int) -> None:
            progress.advance(task, count)
            if stop.is_set():
                raise InterruptedError

        def run(job: Job) -> None:
            _save(file_of(part, job), job.read(advance))

        # Threads: parsing, unpacking and writing all run without the interpreter's lock.
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            running = {pool.submit(run, job): job for job in sorted(todo, key=lambda job: -job.size)}
            try:
                for future in as_completed(running):
                    try:
                        future.result()
                    except (ArchiveError, SchemaError, ShapeError) as error:
                        faults[running[future].name] = str(error)
            except BaseException:  # an interruption, a full disk: the other rooms are for the next start
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if faults:
        said = [f"  {name}: {fault}" for name, fault in sorted(faults.items())]
        raise SchemaError(
            f"{len(faults)} of {len(jobs)} rooms cannot be read, and {out} was not written:\n"
            + "\n".join(said)
            + "\n"
            "Mend them and give the same command again, which reads no other room anew; or leave them out: --leave-out "
            + " ".join(sorted(faults))
        )
    return part


def assemble(
    out: Path,
    jobs: list[Job],
    part: Path,
    class_names: list[str],
    stated: dict[str, str],
    split: np.ndarray | None = None,
    relabel: Callable[[np.ndarray], np.ndarray] = lambda label: label,
) -> tuple[Scenes, list[str]]:
    """Write `out` of the finished rooms in the order of `jobs`. Returns it, and all that was odd, a sentence each.

    split [n]: of each room; None: by area. relabel: from what was read to uint8 0 .. classes - 1.
    """
    notes = []
    with scene_schema.writer(out, class_names, **stated) as writer:
        for i, job in enumerate(track(jobs, "writing rooms", console=Console(stderr=True))):
            room = load(part, job)
            one = job.split if split is None else int(split[i])
            writer.add(job.name, job.area, room.points, room.colour, relabel(room.label), one, room.origin)
            notes += room.notes
    shutil.rmtree(part)
    return scene_schema.read(out), notes


def run(options: Any, convert: Callable[[Any], tuple[Scenes, list[str]]]) -> None:
    """The command line of a script: convert, say what was made and what was odd; faults are sentences."""
    try:
        scenes, notes = convert(options)
    except (ArchiveError, SchemaError, ShapeError) as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:  # no room, no permission
        raise SystemExit(
            f"error: {error}; once that is mended, the same command goes on from here."
        ) from None
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; the same command goes on from here.") from None
    counts = [len(scenes.of(split)) for split in range(3)]
    print(
        f"{options.out}: {counts} rooms to train, validate and test, {int(scenes.ptr[-1]):,} points, "
        f"{len(scenes.class_names)} classes, {len(np.unique(scenes.area))} areas"
    )
    for note in notes:
        print(f"note: {note}".encode(errors="backslashreplace").decode())  # a name may be no text


def file_of(part: Path, job: Job) -> Path:
    """Where a finished room lies."""
    return part / f"{hashlib.sha256(f'{job.name} {job.key}'.encode()).hexdigest()[:24]}.npz"


def load(part: Path, job: Job) -> Read:
    """A finished room."""
    with np.load(file_of(part, job), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in Read._fields}
    return Read(**{**found, "notes": found["notes"].tolist()})


def _save(path: Path, room: Read) -> None:
    """A file that is whole or not there."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **{**room._asdict(), "notes": np.array(room.notes, dtype=str)})
    os.replace(temporary, path)
