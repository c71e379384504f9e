"""Files that are whole or not there: written beside their place, synchronised with the disk, then renamed.

A kill or a power cut at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Replace `path` by `content`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A temporary file to write to, which replaces `path` at the end of the block; after an error it is removed.

    suffix: of the temporary file, for libraries that choose the format by it.
    """
    temporary = make_temporary(path, suffix)
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_temporary(path: Path, suffix: str = ".tmp", folder: Path | None = None) -> Path:
    """An empty hidden file for what will become `path`. folder: another one on the same disk; None: beside `path`."""
    handle, name = tempfile.mkstemp(suffix, f".{path.name}.", folder or path.parent)
    try:
        os.chmod(name, 0o644)  # mkstemp's files are for their owner alone
    finally:
        os.close(handle)
    return Path(name)


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
