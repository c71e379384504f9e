"""Files that are whole or not there: written beside their place, synchronised with the disk, then renamed.

A kill or a power cut at any moment leaves the old file or the new one. It may leave a temporary file, whose name says that
this program made it and which process wrote it: .NAME.dropfold-PROCESS-RANDOM.tmp. The next process that writes to the
folder removes those of processes that have ended, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.processes import has_ended, identify

TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.dropfold-(?P<process>[0-9a-f]{8}-[0-9a-f]{6}-\d+-\d+)-[0-9a-f]{8}(\.\w+)?", re.DOTALL
)
NAME_BYTES = (
    120  # a longer name stands as its checksum: file systems take 255 bytes with all that comes behind
)
DAYS_OF_A_STRANGER = (
    7  # whether another machine's process lives cannot be seen; a file untouched for so long is left over
)
_tidied: set[tuple[int, Path]] = set()  # by process (a fork inherits this) and folder


class Own(NamedTuple):
    """How a file that a command wrote is known from one that the user has from elsewhere."""

    kind: str
    """In words."""
    begins: bytes
    """A regular expression of the file's beginning: what the format has there, and what this program alone writes."""
    holds: bytes = b""
    """The same, somewhere in the file, where the format has no fixed place for it."""


WRITER = "written by dropfold"  # in files that say who wrote them
OURS = Own(
    "file that says dropfold wrote it",
    rb"ply\r?\nformat [^\n]*\n(?:comment [^\n]*\n)*?comment %(who)s\s"  # PLY: a comment of the header
    rb"|LASF.{54}%(who)s"  # LAS, LAZ: the generating software
    rb"|\x89PNG\r\n\x1a\n.{0,2000}?tEXtSoftware\x00%(who)s" % {b"who": WRITER.encode()},
)
DATA_SET = Own("data set (HDF5) of dropfold", rb"\x89HDF\r\n\x1a\n", b"dropfold/")


def check_target(
    path: Path, own: Own = DATA_SET, *, option: str | None = "--out", overwrite: bool | None = None
) -> None:
    """Refuse to put a command's output in the place of anything but what it would write itself: a folder, a device, a link,
    or somebody's file, which would be lost. An empty file is nobody's.

    option: of the command, which says where its output goes; None: it has none.
    overwrite: whether the user allows to replace any file, by the command's option --overwrite; None: it has none.
    """
    otherwise = "move it away" if option is None else f"give {option} the name of a file"
    if path.is_dir():
        raise SchemaError(f"{path} is a folder; {otherwise}.")
    if path.exists() and not path.is_file():
        raise SchemaError(f"{path} is a device or a pipe; {otherwise}.")
    if path.is_symlink():  # which a file that is renamed to this place would replace
        raise SchemaError(f"{path} is a link to {os.readlink(path)}, and would be lost; {otherwise}.")
    if not path.exists():
        return
    if path.stat().st_size and not overwrite and not _is(path, own):
        other = "" if option is None else f"give another {option}, or "
        allow = "" if overwrite is None else ", or replace it with --overwrite"
        raise SchemaError(
            f"{path} is there and is no {own.kind}, and would be lost; {other}move it away{allow}."
        )


def _is(path: Path, own: Own) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.match(own.begins, content, re.DOTALL) is not None and content.find(own.holds) >= 0


def check_folder(path: Path, option: str = "--out") -> None:
    """Refuse a place for a command's folder where a file is, or a link that leads nowhere, or the like above it.

    Raises:
        SchemaError: the message names what is in the way.
    """
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if os.path.lexists(place):
            kind = "a file" if place.exists() else "a link that leads nowhere"
            what = "" if place == path else f"{path} cannot be made: "
            raise SchemaError(f"{what}{place} is {kind}, and a folder is needed; give another {option}.")


def make_folder(path: Path, option: str = "--out") -> None:
    """Make a folder for a command's output, with those above it; see `check_folder`."""
    check_folder(path, option)
    path.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Replace `path` by `content`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A temporary file to write to, which replaces `path` at the end of the block; after an error it is removed.

    suffix: of the temporary file, for libraries that choose the format by it. An OSError names `path`.
    """
    with naming(path):
        temporary = make_temporary(path, suffix)
        try:
            yield temporary
            move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside (a full disk) names the file that was to be written, not its temporary one, or none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # numpy: "12 requested and 3 written"
            raise OSError(f"{path} could not be written ({error}); is the disk full?") from error
        if error.filename is None or TEMPORARY.fullmatch(Path(str(error.filename)).name):
            error.filename, error.filename2 = str(path), None
        raise


def make_temporary(path: Path, suffix: str = ".tmp", folder: Path | None = None) -> Path:
    """An empty hidden file for what will become `path`. folder: another one on the same disk; None: beside `path`."""
    temporary = name_temporary(path, suffix, folder)
    # Others may read the file if the user's umask lets them.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def name_temporary(path: Path, suffix: str = ".tmp", folder: Path | None = None) -> Path:
    """A name for a temporary file or folder, see `make_temporary`; what ended processes left in its folder is removed."""
    folder = folder or path.parent
    if (os.getpid(), folder) not in _tidied:
        _tidied.add((os.getpid(), folder))
        with contextlib.suppress(PermissionError):  # a folder that may be written to, and not be listed
            remove_left_over(folder)
    return folder / f".{_short(path.name)}.dropfold-{identify()}-{secrets.token_hex(4)}{suffix}"


def remove_left_over(folder: Path, held: Iterable[str] = ()) -> None:
    """Remove the temporary files and folders in `folder` whose writers have ended.

    held: names of files that this process alone may write, because it holds the folder's lock; of those all go but its own.
    """
    ours, mine = {_short(name) for name in held}, identify()
    with os.scandir(folder) as entries:
        found = [(entry, match) for entry in entries if (match := TEMPORARY.fullmatch(entry.name))]
    for entry, match in found:
        process = match["process"]
        ended = has_ended(process) or (match["name"] in ours and process != mine)
        with contextlib.suppress(OSError):  # another process may be removing it, too
            old = time.time() - entry.stat(follow_symlinks=False).st_mtime > DAYS_OF_A_STRANGER * 86_400
            if not ended and not (has_ended(process) is None and old):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _short(name: str) -> str:
    raw = os.fsencode(name)
    return name if len(raw) <= NAME_BYTES else hashlib.sha256(raw).hexdigest()[:24]


def move_into_place(source: Path, target: Path) -> None:
    """Rename a file, or a folder with all that it holds, to `target`: its bytes are on the disk before its name is."""
    if source.is_dir():
        for inner in source.rglob("*"):
            _synchronise(inner)
    _synchronise(source)
    os.replace(source, target)
    _synchronise(target.parent)


def _synchronise(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
