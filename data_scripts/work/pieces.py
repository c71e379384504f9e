"""The folder FILE.part beside an output: what is finished of long work, until the output is whole.

One process at a time works in it. At the end what this program made is removed from it, by exact name; a file that somebody
else has put there stays, and the folder with it.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.processes import LOCK, FolderLock

# Finished pieces and what was odd about them, the options they were made with, and the arrays that they are stacked to.
OWN = re.compile(r"[0-9a-f]{24}\.(np[yz]|note)|options\.json|[a-z_]+\.rows")
_held: dict[Path, FolderLock] = {}


def begin(out: Path) -> Path:
    """The folder of the pieces of `out`, new or of an earlier start; this process alone works in it until `end`, or until
    the innermost `releasing` block ends."""
    atomic.check_target(out)
    part = out.with_name(out.name + ".part")
    if part.exists() and not part.is_dir():
        raise SchemaError(
            f"{part} is a file, and the finished pieces of {out} need a folder of that name; move the file away, or give "
            "another --out."
        )
    atomic.make_folder(part)
    if part not in _held:
        lock = FolderLock(part)
        lock.take("written to")
        _held[part] = lock
    atomic.remove_left_over(part)
    return part


def end(part: Path) -> None:
    """Remove what this program made in the folder, and the folder if nothing else is in it."""
    if not part.is_dir():
        return
    for path in part.iterdir():
        if OWN.fullmatch(path.name) and path.is_file():
            path.unlink()
    atomic.remove_left_over(part)
    release(part)
    kept = sorted(path.name for path in part.iterdir() if path.name != LOCK)
    if not kept:
        with contextlib.suppress(OSError):  # another process has begun in it
            part.rmdir()
    else:
        print(
            f"note: {part} stays: it holds {kept[0]!r}, which is no piece of the data set.", file=sys.stderr
        )


def release(part: Path) -> None:
    """Let another process work in the folder."""
    if part in _held:
        _held.pop(part).release()


@contextlib.contextmanager
def releasing() -> Iterator[None]:
    """Release the folders that were begun inside, also after an error; finished pieces stay for the next start."""
    before = set(_held)
    try:
        yield
    finally:
        for part in set(_held) - before:
            release(part)
