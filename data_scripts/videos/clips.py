"""A list of video files becomes a data set: decoded by several processes, with progress, and resumable.

Each decoded clip is a file in the folder FILE.part beside the output, renamed when it is whole; a second start goes on
with those that are missing. A video that cannot be read is reported and left out; one that kills its process, too. One that
is damaged in places keeps its good frames, and is noted.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from dropfold.data_scripts.readers import decode as decoding
from dropfold.data_scripts.readers.decode import Reading, Sampling, pyav, read_clip_here
from dropfold.data_scripts.schemas import splits, video_schema
from dropfold.data_scripts.schemas.copies import note_copies
from dropfold.data_scripts.schemas.video_schema import Videos
from dropfold.data_scripts.work import atomic, isolate, jobs, pieces
from dropfold.data_scripts.work.errors import SchemaError, VideoError
from dropfold.data_scripts.work.folders import in_number, print_line, printable
from dropfold.data_scripts.work.processes import cores

Decode = Callable[[Path, str, Reading], Any]


@dataclass(kw_only=True)
class Sourced(Reading):
    """A reading of the videos of a source into a file."""

    source: Path
    """The folder, or its archive (zip, tar or rar)."""
    out: Path
    """The HDF5 file to write."""


@dataclass(kw_only=True)
class Published(Sourced):
    """A reading as the later papers have it (BT, TedNet): six frames."""

    frames: int = 6
    """The most frames of a clip; a shorter video keeps its length."""
    sampling: Sampling = "tednet"
    """first: the first frames. uniform: the middles of equal parts. tednet: at random, kept in their order."""


@dataclass(frozen=True)
class Clip:
    """One video file and what is known of it."""

    path: Path
    name: str
    """Within the data set; unique."""
    classes: tuple[str, ...]
    """Its class, or its several classes."""
    group: str
    split: int | None = None
    """Where the data set states one."""


@pieces.releasing()
def make(
    out: Path,
    clips: list[Clip],
    class_names: list[str],
    reading: Reading,
    provenance: dict[str, str],
    multilabel: bool = False,
    decode: Decode = read_clip_here,
) -> tuple[Videos, list[str]]:
    """Write the data set `out`. Returns it, and a sentence for each video and class that was left out.

    `provenance` gives the file's source, credits and rebuild.
    """
    reading.checked()
    if decode is read_clip_here:
        pyav()
    if not clips:
        raise SchemaError(f"no videos were found for {out}; is it another folder?")
    path_of: dict[str, Path] = {}
    for clip in clips:
        if (other := path_of.setdefault(clip.name, clip.path)) is not clip.path:
            raise SchemaError(
                f"{other} and {clip.path} are both {clip.name} of the data set; remove one of them."
            )
    part = _begin_folder(out, reading)
    faults = _decode_all(part, clips, reading, decode)
    kept = [clip for clip in clips if _clip_path(part, clip).exists()]
    if not kept:
        raise SchemaError("\n".join(["no video could be read:", *faults[:10]]))
    names = [name for name in class_names if any(name in clip.classes for clip in kept)]
    faults += [f"no readable video is of class {name}" for name in class_names if name not in names]
    frames, length = _stack_clips(part, kept, reading)
    place = {name: c for c, name in enumerate(names)}
    labels = np.zeros((len(kept), len(names)), dtype=np.uint8)
    for i, clip in enumerate(kept):
        labels[i, [place[name] for name in clip.classes]] = 1
    label = np.array([place[clip.classes[0]] for clip in kept], dtype=np.int64)
    group = [clip.group for clip in kept]
    split = _split(kept, group, label)
    videos = Videos(
        frames=frames,
        length=length,
        label=label,
        split=split,
        fold=splits.random_folds(len(kept), reading.seed),
        group_fold=splits.group_folds(group, label),
        group=group,
        name=[clip.name for clip in kept],
        class_names=names,
        labels=labels if multilabel else None,
        **provenance,
    )
    video_schema.write(out, videos)
    for clip in kept:
        if (note := _clip_path(part, clip).with_suffix(".note")).exists():
            print_line(f"note: {note.read_text(errors='replace')}")
    for line in note_copies([_digest_of(clip) for clip in kept], split, videos.name, "clip", "clips"):
        print_line(f"note: {line}")
    pieces.end(part)
    return videos, faults


def run(options: Sourced, convert: Callable[[Any], tuple[Videos, list[str]]]) -> None:
    """The command line of a script: convert, say what was made and what was left out; faults are sentences."""
    with jobs.advise_restart():
        videos, faults = convert(options)
    counts = [len(videos.of(split)) for split in range(3)]
    classes = in_number(len(videos.class_names), "class", "classes")
    print_line(f"{options.out}: {counts} clips to train, validate and test, {classes}")
    for fault in faults:
        print_line(fault if fault.startswith("note: ") else f"left out: {fault}")


def format_options(reading: Reading) -> str:
    """The options of a reading as the command line states them, without paths and processes."""
    names = [field.name for field in fields(Reading) if field.name != "workers"]
    return " ".join(f"--{name} {getattr(reading, name)}" for name in names)


def repeat_options(options: Sourced) -> str:
    """The source's name and the options, as the command line that makes the file anew has them."""
    return f"--source {shlex.quote(printable(options.source.resolve().name))} {format_options(options)}"


def _split(clips: list[Clip], group: list[str], label: np.ndarray) -> np.ndarray:
    """What the clips state, with validation carved from the training clips where they state none; or else by groups."""
    return splits.split_as_stated(
        [clip.split for clip in clips],
        lambda: splits.group_split(group, label),
        lambda split: splits.carve_groups(group, label, split),
    )


def _begin_folder(out: Path, reading: Reading) -> Path:
    """The folder of decoded clips, new or of an earlier start with the same options."""
    part = pieces.begin(out)
    file, wanted = part / "options.json", format_options(reading)
    if not file.exists():
        atomic.write_bytes(file, json.dumps(wanted).encode())
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SchemaError(
            f"{file} is damaged ({error}); delete {part}, and videos are decoded anew."
        ) from None
    if found != wanted:
        raise SchemaError(f"{part} was begun with {found}; give these options again, or delete the folder.")
    return part


def _digest_of(clip: Clip) -> str:
    """What tells a video from others: the SHA-256 of its file; of one that a decoder makes up, its name."""
    return _digest(clip.path, clip.path.stat().st_mtime_ns) if clip.path.exists() else clip.name


def _clip_path(part: Path, clip: Clip) -> Path:
    """Where a decoded clip lies; what the video holds is part of the name, so that a mended one is read anew."""
    key = f"{clip.name} {_digest(clip.path, clip.path.stat().st_mtime_ns) if clip.path.exists() else 0}"
    return part / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"


@functools.cache
def _digest(path: Path, changed: int) -> str:
    """SHA-256 of a file that was last changed then; to read it takes little beside decoding it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decode_all(part: Path, clips: list[Clip], reading: Reading, decode: Decode) -> list[str]:
    todo = [clip for clip in clips if not _clip_path(part, clip).exists()]
    faults: dict[str, str] = {}
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("decoding", total=len(clips), completed=len(clips) - len(todo))
        # Threads, each of which waits for a process that decodes.
        with ThreadPoolExecutor(reading.workers or cores()) as pool:
            running = {
                pool.submit(_decode_one, decode, clip, _clip_path(part, clip), reading): clip for clip in todo
            }
            try:
                for future in as_completed(running):
                    if fault := future.result():
                        faults[running[future].name] = fault
                    progress.advance(task)
            except BaseException:  # an interruption, a full disk: the other videos are for the next start
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return [faults[clip.name] for clip in clips if clip.name in faults]


def _decode_one(decode: Decode, clip: Clip, target: Path, reading: Reading) -> str:
    """Decode into `target`, in another process; returns what was wrong with the video, or nothing."""
    notes: list[str] = []
    try:
        found = isolate.call(
            _decode_by_name,
            isolate.name_of(decode),
            clip.path,
            clip.name,
            reading.options(),
            seconds=decoding.seconds_to_decode(clip.path) if clip.path.exists() else decoding.SECONDS,
            memory=decoding.memory_to_decode(),
            notes=notes,
        )
    except VideoError as error:
        return str(error)
    except (isolate.Crash, OSError) as error:
        return f"{clip.path} cannot be read ({error})."
    buffer = io.BytesIO()
    np.save(buffer, found["frames"])
    target.with_suffix(".note").unlink(missing_ok=True)  # of another state of the video
    if notes:
        atomic.write_bytes(target.with_suffix(".note"), "; ".join(notes).encode(errors="backslashreplace"))
    atomic.write_bytes(target, buffer.getbuffer())
    return ""


def _decode_by_name(decode: str, path: str, name: str, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """In the other process: the frames, and notes on what was lost."""
    found = isolate.find(decode)(Path(path), name, Reading(**options))
    return found if isinstance(found, dict) else {"frames": found}


def _stack_clips(part: Path, clips: list[Clip], reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """All clips as one array on the disk, zeros after their end, and their lengths."""
    width, height = reading.checked()
    files = [_clip_path(part, clip) for clip in clips]
    opened = (_open_clip(file, clip, height, width) for file, clip in zip(files, clips))
    length = np.array([len(frames) for frames in opened], dtype=np.int64)
    shape = (len(clips), int(length.max()), height, width, 3)
    # Written, not mapped: on a full disk a write is an error, and a store into a map kills the process.
    with (part / "frames.rows").open("wb") as stack:
        for i, (file, clip) in enumerate(zip(files, clips)):
            stack.seek(i * math.prod(shape[1:]))
            stack.write(np.ascontiguousarray(_open_clip(file, clip, height, width)).data)
        stack.truncate(math.prod(shape))
    return np.memmap(part / "frames.rows", np.uint8, "r", shape=shape), length


def _open_clip(file: Path, clip: Clip, height: int, width: int) -> np.ndarray:
    """The frames of a decoded clip, on the disk."""
    reason = ""
    try:
        frames: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        if frames.dtype == np.uint8 and len(frames) and frames.shape[1:] == (height, width, 3):
            return frames
        reason = f"it is {frames.dtype} {frames.shape}"
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # NumPy raises what it likes on a broken header
        reason = str(error)
    raise SchemaError(
        f"{file}, the decoded {clip.path}, is damaged ({reason}); delete it and give the same command again."
    )
