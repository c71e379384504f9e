"""Long work in pieces: done in parallel, each kept when it is finished, so that a second start does only what is missing.

A finished piece is a file in the folder FILE.part beside the output, renamed when it is whole. A piece that cannot be read
stops nothing: the others are read, then all faults are listed, and the next start goes on with what was mended.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dropfold.data_scripts.work import atomic, pieces
from dropfold.data_scripts.work.errors import (
    ArchiveError,
    SchemaError,
    ShapeError,
    VideoError,
    is_of_broken_data,
)
from dropfold.data_scripts.work.processes import cores

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """A piece of the work."""

    name: str
    key: str
    """All that the result depends on; a finished piece of the same name and key is not done again."""
    size: int
    """Bytes, for the progress."""
    read: Callable[[Advance], dict[str, np.ndarray]]
    """The result; it is called with a function that takes the bytes that were read since it was called last."""


@contextlib.contextmanager
def advise_restart(restart: str = "goes on from here") -> Iterator[None]:
    """Note on a full disk and on Ctrl-C what the same command then does; the command `dropfold` prints the note."""
    try:
        yield
    except (OSError, KeyboardInterrupt) as error:
        error.add_note(f"the same command {restart}")
        raise


def fingerprint(path: Path, unpacked: bool) -> str:
    """A text that changes with the file: size and time of change; of a file just unpacked, whose time is now, a checksum."""
    if unpacked:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}"


def run_jobs(
    out: Path,
    jobs: Sequence[Job],
    workers: int,
    what: str,
    advice: Callable[[list[str]], str] = lambda names: "",
) -> Path:
    """Do all jobs that are not finished; returns their folder, or raises a `SchemaError` of all faults.

    what: the jobs in a message, e.g. "rooms". advice: what else can be done about those that cannot be read.
    """
    part = pieces.begin(out)
    todo = [job for job in jobs if not zipfile.is_zipfile(piece_path(part, job))]  # not there, or cut
    faults: dict[str, str] = {}
    columns = (
        *Progress.get_default_columns()[:2],
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total, left_over = sum(job.size for job in jobs), sum(job.size for job in todo)
        task = progress.add_task(f"reading {what}", total=total, completed=total - left_over)
        stop = threading.Event()

        def advance(count: int) -> None:
            progress.advance(task, count)
            if stop.is_set():
                raise InterruptedError

        def run(job: Job) -> str:
            """What is wrong with the job's files, or nothing."""
            try:
                found = job.read(advance)
            except BaseException as error:
                if (fault := describe_fault(job.name, error)) is None:
                    raise
                return fault
            _save(piece_path(part, job), found)
            return ""

        # Threads: parsing, unpacking and writing all run without the interpreter's lock.
        with ThreadPoolExecutor(workers or cores()) as pool:
            running = {pool.submit(run, job): job for job in sorted(todo, key=lambda job: -job.size)}
            try:
                for future in as_completed(running):
                    if fault := future.result():
                        faults[running[future].name] = fault
            except BaseException:  # an interruption, a full disk: the others are for the next start
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if faults:
        listed = [f"  {name}: {fault}" for name, fault in sorted(faults.items())]
        raise SchemaError(
            f"{len(faults)} of {len(jobs)} {what} cannot be read, and {out} was not written:\n"
            + "\n".join(listed)
            + "\n"
            f"Mend them and give the same command again, which reads none of the other {what} anew"
            f"{advice(sorted(faults))}."
        )
    return part


def describe_fault(name: str, error: BaseException) -> str | None:
    """A sentence on what is wrong with the file `name`; None of what must stop all: an interruption, a full disk."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | InterruptedError):
        return None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return None
    if isinstance(error, ArchiveError | SchemaError | ShapeError | VideoError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{name} needs more memory than there is."
    reason = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
    return f"{name} cannot be read ({reason})."


def piece_path(part: Path, job: Job) -> Path:
    """Where a finished piece lies."""
    return part / f"{hashlib.sha256(f'{job.name} {job.key}'.encode()).hexdigest()[:24]}.npz"


def load_piece(part: Path, job: Job) -> dict[str, Any]:
    """A finished piece."""
    path = piece_path(part, job)
    try:
        # Opened here: of a truncated file NumPy would leave its own handle open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except MemoryError:
        raise
    except Exception as error:  # NumPy and zipfile raise what they like on broken data
        if not is_of_broken_data(error):
            raise
        raise SchemaError(
            f"{path}, the finished piece of {job.name}, is damaged ({error}); delete it and give the same command again."
        ) from None


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A file that is whole or not there."""
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
